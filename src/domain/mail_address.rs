//! Mail addresses.

/// The longest address that mail servers take.
const MAX_ADDRESS_LEN: usize = 254;

/// Whether a text is a mail address: a name and a host. Whether anybody reads it, only a mail tells.
pub fn is_mail_address(text: &str) -> bool {
    let parts = text
        .split_once('@')
        .filter(|(name, host)| !name.is_empty() && !host.is_empty() && !host.contains('@'));
    let is_plain =
        !text.contains(|c: char| c.is_whitespace() || c.is_control() || "<>,;\"".contains(c));
    parts.is_some() && is_plain && text.len() <= MAX_ADDRESS_LEN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_name_and_a_host() {
        assert!(is_mail_address("user@example.org"));
        for text in
            ["", "user", "@example.org", "user@", "a@b@c", "a b@c.d", "a@b.c,d@e.f", "<a@b.c>"]
        {
            assert!(!is_mail_address(text), "{text}");
        }
        assert!(!is_mail_address(&format!("{}@example.org", "a".repeat(250))));
    }
}
