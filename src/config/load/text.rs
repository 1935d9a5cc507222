//! The text of a configuration file: made easy to read for the parser, and kept out of what it complains of.

/// The same file with numbers that no parser has room for as texts: they are told as what is wrong with
/// their key, on its line and with all other faults, and not as the end of reading.
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

/// A parser's message without the lines of the file that it quotes: they may hold a password.
pub(super) fn without_excerpt(message: &str) -> String {
    let quotes = |line: &str| {
        line.trim_start_matches([' ', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
            .starts_with('|')
    };
    let kept: Vec<&str> = message.lines().filter(|line| !quotes(line)).collect();
    kept.join(" ").trim().to_owned()
}
