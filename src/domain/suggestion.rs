//! Suggestions for misspelt words.

/// Maximum edit distance.
const MAX_EDITS: usize = 4;

/// The known word nearest to a given one, if it is near: at most half of the letters of a short word may
/// differ.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = given.chars().count();
    let most = MAX_EDITS.min(length.div_ceil(2));
    // A difference in length is a lower bound of the distance, and the comparison takes time proportional to
    // both lengths.
    let near = |word: &&str| word.chars().count().abs_diff(length) <= most;
    let known: Vec<&str> = known.into_iter().filter(near).collect();
    if known.is_empty() {
        return None;
    }
    let lower = given.to_lowercase();
    known
        .into_iter()
        .map(|word| (strsim::osa_distance(&lower, &word.to_lowercase()), word))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_typo_has_its_neighbour_and_another_word_has_none() {
        let known = ["limit", "after", "status", "to", "from"];
        assert_eq!(nearest("limti", known), Some("limit"));
        assert_eq!(nearest("Status", known), Some("status"));
        assert_eq!(nearest("t", known), Some("to"));
        assert_eq!(nearest("form", known), Some("from"));
        assert_eq!(nearest("page", known), None);
        assert_eq!(nearest("x", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest(&"limit".repeat(1_000_000), known), None);
    }
}
