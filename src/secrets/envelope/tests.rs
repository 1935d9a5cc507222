use proptest::prelude::*;

use super::*;
use crate::secrets::KeyFile;

fn ring() -> KeyRing {
    let folder = tempfile::tempdir().unwrap();
    KeyFile::new(folder.path().join("keys")).create(time::OffsetDateTime::UNIX_EPOCH).unwrap()
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn bytes_of(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn sealed(ring: &KeyRing, plain: &[u8], encrypted: bool) -> Vec<u8> {
    let file = tempfile::tempfile().unwrap();
    let mut writer = EnvelopeWriter::new(file, ring, encrypted).unwrap();
    writer.write_all(plain).unwrap();
    bytes_of(writer.finish().unwrap())
}

fn opened(ring: &KeyRing, sealed: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let file = EnvelopeFile::open(file_of(sealed), std::slice::from_ref(ring), false)?;
    let mut plain = Vec::new();
    file.reader()?.read_to_end(&mut plain)?;
    Ok(plain)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

#[test]
fn every_length_comes_back() {
    let ring = ring();
    for length in [0, 1, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 2 * CHUNK_LEN, 3 * CHUNK_LEN + 5]
    {
        let plain = pattern(length);
        for encrypted in [false, true] {
            let sealed = sealed(&ring, &plain, encrypted);
            assert_eq!(opened(&ring, &sealed).unwrap(), plain, "{length} {encrypted}");
            assert_eq!(sealed.starts_with(&plain), !encrypted || length == 0);
        }
    }
}

#[test]
fn the_beginning_can_be_written_again_and_any_place_be_read() {
    let ring = ring();
    let mut plain = pattern(2 * CHUNK_LEN + 100);
    let mut writer = EnvelopeWriter::new(tempfile::tempfile().unwrap(), &ring, true).unwrap();
    writer.write_all(&plain).unwrap();
    writer.seek(SeekFrom::Current(-(plain.len() as i64))).unwrap();
    writer.write_all(b"header").unwrap();
    writer.seek(SeekFrom::Start(plain.len() as u64)).unwrap();
    writer.write_all(b"end").unwrap();
    plain[..6].copy_from_slice(b"header");
    plain.extend_from_slice(b"end");
    let file = EnvelopeFile::open(writer.finish().unwrap(), &[ring], false).unwrap();
    let mut reader = file.reader().unwrap();
    for at in [2 * CHUNK_LEN - 3, 0, CHUNK_LEN, plain.len() - 3] {
        reader.seek(SeekFrom::Start(at as u64)).unwrap();
        let mut found = vec![0; 3];
        reader.read_exact(&mut found).unwrap();
        assert_eq!(found, plain[at..at + 3]);
    }
}

#[test]
fn truncated_reordered_and_extended_files_are_refused() {
    let ring = ring();
    let plain = pattern(3 * CHUNK_LEN + 5);
    let encrypted = sealed(&ring, &plain, true);
    for chunk in 0..4 {
        let cut = offset(chunk) as usize;
        assert!(opened(&ring, &encrypted[..cut]).is_err(), "truncated at chunk {chunk}");
    }
    let (one, two, three) = (offset(0) as usize, offset(1) as usize, offset(2) as usize);
    let swapped =
        [&encrypted[..one], &encrypted[two..three], &encrypted[one..two], &encrypted[three..]];
    assert!(matches!(opened(&ring, &swapped.concat()), Err(EnvelopeError::Forged)));
    let without = [&encrypted[..two], &encrypted[three..]].concat();
    assert!(matches!(opened(&ring, &without), Err(EnvelopeError::Forged)));
    let other = sealed(&ring, &plain, true);
    let mixed = [&encrypted[..two], &other[two..]].concat();
    assert!(matches!(opened(&ring, &mixed), Err(EnvelopeError::Forged)), "chunks of two files");
    for encrypted in [false, true] {
        let mut longer = sealed(&ring, &plain, encrypted);
        longer.push(0);
        assert!(opened(&ring, &longer).is_err());
    }
}

#[test]
fn foreign_files_are_refused_unless_they_are_trusted() {
    let (own, other) = (ring(), ring());
    let open =
        |bytes: &[u8], trust| EnvelopeFile::open(file_of(bytes), std::slice::from_ref(&own), trust);
    let authenticated = sealed(&other, b"an archive", false);
    assert!(
        matches!(open(&authenticated, false), Err(EnvelopeError::UnknownKey(id)) if id == other.current())
    );
    assert_eq!(open(&authenticated, true).unwrap().key(), None);
    assert!(matches!(open(b"an archive", false), Err(EnvelopeError::Unauthenticated)));
    assert!(open(b"an archive", true).is_ok());
    // Without its key there is nothing to trust.
    let encrypted = sealed(&other, b"an archive", true);
    assert!(matches!(open(&encrypted, true), Err(EnvelopeError::UnknownKey(_))));
    let both = EnvelopeFile::open(file_of(&encrypted), &[own.clone(), other.clone()], false);
    assert_eq!(both.unwrap().key(), Some(other.current()));
    let mut newer = sealed(&own, b"an archive", true);
    newer[MAGIC_LEN] = 2;
    assert!(matches!(open(&newer, false), Err(EnvelopeError::Newer(2))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_altered_byte_is_found(
        at in any::<prop::sample::Index>(),
        change in 1..=255_u8,
        encrypted in any::<bool>(),
    ) {
        let ring = ring();
        let plain = pattern(CHUNK_LEN + 1000);
        let mut file = sealed(&ring, &plain, encrypted);
        let at = at.index(file.len());
        file[at] ^= change;
        prop_assert!(opened(&ring, &file).is_err());
    }

    #[test]
    fn any_truncation_is_found(at in any::<prop::sample::Index>(), encrypted in any::<bool>()) {
        let ring = ring();
        let file = sealed(&ring, &pattern(CHUNK_LEN + 1000), encrypted);
        prop_assert!(opened(&ring, &file[..at.index(file.len())]).is_err());
    }
}
