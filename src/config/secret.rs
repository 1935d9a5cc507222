//! Values that must never be shown.

use std::{
    fmt,
    fs::File,
    io::{Error, ErrorKind, Read as _},
    path::Path,
};

use zeroize::Zeroizing;

/// A secret; shown as `***` wherever it might be printed, and wiped when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(value: String) -> Secret {
        Secret(Zeroizing::new(value))
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Maximum size of a secret file, in bytes.
pub const MAX_SECRET_LEN: u64 = 4096;

/// Reads a text file of at most `most` bytes. The bound protects from devices and pipes without end.
///
/// # Errors
/// The file is unreadable, not UTF-8, or longer.
pub fn read_bounded(path: &Path, most: u64) -> Result<String, Error> {
    let mut text = String::new();
    File::open(path)?.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        let what = format!("it is longer than {} KiB", most / 1024);
        return Err(Error::new(ErrorKind::FileTooLarge, what));
    }
    Ok(text)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_end_is_not_read_to_its_end() {
        let error = read_bounded(Path::new("/dev/zero"), MAX_SECRET_LEN).unwrap_err();
        assert_eq!(error.to_string(), "it is longer than 4 KiB");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "x".repeat(4096)).unwrap();
        assert_eq!(read_bounded(file.path(), MAX_SECRET_LEN).unwrap().len(), 4096);
    }
}
