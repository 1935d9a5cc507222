//! Preprocesses the text of a configuration file, and sanitizes the parser's messages.

/// Quotes numbers too large for the parser, so that they are reported with their key, line and all other
/// problems, instead of as a syntax error.
pub(super) fn as_texts(text: &str) -> String {
    let quoted = |line: &str| {
        let (key, rest) = line.split_once('=')?;
        let value = rest.split('#').next().unwrap_or_default().trim();
        let digits = value.replace('_', "");
        let number = digits.strip_prefix(['-', '+']).unwrap_or(&digits);
        let fits = number.is_empty()
            || !number.bytes().all(|byte| byte.is_ascii_digit())
            || digits.parse::<i64>().is_ok();
        (!fits).then(|| format!("{key}= \"{digits}\""))
    };
    let lines = text.split('\n').map(|line| quoted(line).unwrap_or_else(|| line.to_owned()));
    lines.collect::<Vec<_>>().join("\n")
}

/// Removes quoted file lines from a parser message: they may contain a password.
pub(super) fn without_excerpt(message: &str) -> String {
    let quotes = |line: &str| {
        line.trim_start_matches([' ', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
            .starts_with('|')
    };
    let kept: Vec<&str> = message.lines().filter(|line| !quotes(line)).collect();
    kept.join(" ").trim().to_owned()
}
