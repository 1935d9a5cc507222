//! Whether Redis may be believed that a party is connected nowhere.
//!
//! A Redis that was emptied, or a replica that took over empty, knows nobody until every gateway has written its
//! connections again. So each gateway keeps a mark beside its connections: a word that is new after each complete
//! write, and goes with them. An absence counts only if the mark of every other gateway that Postgres knows
//! was there, and the same, before and after the look.

/// The marks of the gateways as read once; `None` or empty for a gateway whose connections are not complete.
pub(super) type Marks = [Option<Vec<u8>>];

/// Whether nothing was lost from before the look until after it.
pub(super) fn is_believed(before: &Marks, after: &Marks) -> bool {
    let is_complete = |mark: &Option<Vec<u8>>| mark.as_ref().is_some_and(|mark| !mark.is_empty());
    before.len() == after.len() && before == after && before.iter().all(is_complete)
}

#[cfg(test)]
mod tests {
    use super::is_believed;

    #[test]
    fn an_absence_counts_only_if_every_other_gateway_has_its_connections_there() {
        let mark = |text: &str| Some(text.as_bytes().to_vec());
        let (one, two) = (mark("1"), mark("2"));
        let both = [one.clone(), two.clone()];
        assert!(is_believed(&[], &[]), "there is no other gateway");
        assert!(is_believed(&both, &both));
        // Emptied, and one has not written again.
        assert!(!is_believed(&[one.clone(), None], &[one.clone(), None]));
        assert!(!is_believed(&[None, None], &[None, None]));
        // One is writing.
        assert!(!is_believed(&[one.clone(), mark("")], &[one.clone(), mark("")]));
        // Emptied during the look, or filled during it, or both.
        assert!(!is_believed(&both, &[one.clone(), None]));
        assert!(!is_believed(&[one.clone(), None], &both));
        assert!(!is_believed(&both, &[one, mark("3")]));
        assert!(!is_believed(&[two], &[]));
    }
}
