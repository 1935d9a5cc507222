//! Error texts of completions, in the words of the official server: clients show them.

/// The method failed. Clients show everything after `HubException: `.
pub fn invocation_failed(method: &str, text: &str) -> String {
    let method = shown(method);
    format!("An unexpected error occurred invoking '{method}' on the server. HubException: {text}")
}

pub fn method_not_found(target: &str) -> String {
    format!(
        "Failed to invoke '{}' due to an error on the server. HubException: Method does not exist.",
        shown(target)
    )
}

pub fn argument_count_mismatch(target: &str, given: usize, expected: usize) -> String {
    format!(
        "Failed to invoke '{}' due to an error on the server. InvalidDataException: Invocation \
         provides {given} argument(s) but target expects {expected}.",
        shown(target)
    )
}

/// The arguments cannot be read. The official server gives no reason; `reason` saves the author of a
/// client from searching for a misspelt field.
pub fn binding_failed(target: &str, reason: &str) -> String {
    format!(
        "Failed to invoke '{}' due to an error on the server. InvalidDataException: Error binding \
         arguments. Make sure that the types of the provided values match the types of the hub \
         method being invoked. {reason}.",
        shown(target)
    )
}

/// A name sent by a client, cut so that an error text stays short.
fn shown(text: &str) -> &str {
    cut(text, 100)
}

pub fn cut(text: &str, max_chars: usize) -> &str {
    let end = text.char_indices().nth(max_chars).map_or(text.len(), |(at, _)| at);
    text.get(..end).unwrap_or_default()
}
