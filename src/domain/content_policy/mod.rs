//! What the messages of a business user may contain: to which hosts they may link, and which patterns are
//! refused or flagged.

mod hosts;
mod json_strings;
mod links;
mod normal;
mod shorteners;

use std::collections::BTreeSet;

use regex::{RegexBuilder, RegexSet, RegexSetBuilder};

use self::hosts::HostList;
use super::{ContentType, html, message::FieldError};

/// Maximum number of patterns in a policy.
pub const MAX_PATTERNS: usize = 50;
/// Maximum length of a pattern, in characters.
pub const MAX_PATTERN_LEN: usize = 200;
/// Maximum length of the name of a pattern, in characters.
pub const MAX_NAME_LEN: usize = 100;
/// Maximum number of hosts in a policy.
pub const MAX_HOSTS: usize = 1000;
/// Maximum size of a policy file, in bytes.
pub const MAX_POLICY_LEN: usize = 64 * 1024;
/// Maximum size of a compiled pattern, in bytes.
const MAX_COMPILED_PATTERN: usize = 512 * 1024;
/// Maximum size of all compiled patterns of a policy, in bytes.
const MAX_COMPILED: usize = 4 * 1024 * 1024;
/// Maximum memory of the lazily built automata of a policy, in bytes.
const MAX_AUTOMATA: usize = 1024 * 1024;

/// The name of the rule that refuses hosts outside the allow list.
const RULE_ALLOW: &str = "links.allow";
/// The name of the rule for denied hosts.
const RULE_DENY: &str = "links.deny";
/// The name of the rule for shortened links.
const RULE_SHORTENERS: &str = "links.shorteners";

/// What a rule does with a message that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyAction {
    /// The message is accepted and marked.
    Flag,
    /// The message is not accepted.
    Refuse,
}

impl PolicyAction {
    /// The name in the policy file.
    pub const fn name(self) -> &'static str {
        match self {
            PolicyAction::Flag => "flag",
            PolicyAction::Refuse => "refuse",
        }
    }
}

/// The rules about links, as written.
#[derive(Clone, Debug)]
pub struct LinkRules {
    /// If present, every other host is matched.
    pub allow: Option<Vec<String>>,
    /// Hosts that are matched.
    pub deny: Vec<String>,
    /// Whether links of URL shorteners are permitted.
    pub shorteners: bool,
    /// What happens with a matched message.
    pub action: PolicyAction,
}

/// A pattern, as written.
#[derive(Clone, Debug)]
pub struct PatternRule {
    /// The name that senders and administrators see.
    pub name: String,
    /// The regular expression.
    pub regex: String,
    /// What happens with a matched message.
    pub action: PolicyAction,
}

/// Why a policy cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The list of hosts is too long.
    #[error("a policy has at most {MAX_HOSTS} hosts")]
    TooManyHosts,
    /// There are too many patterns.
    #[error("a policy has at most {MAX_PATTERNS} patterns")]
    TooManyPatterns,
    /// An entry of the host list names no host.
    #[error("'{0}' is not a host; expected example.com or *.example.com")]
    NoHost(String),
    /// The name of a pattern is empty, too long, or contains control characters or a comma.
    #[error("a pattern's name has 1 to {MAX_NAME_LEN} characters without control characters")]
    BadName,
    /// Two patterns have the same name, or one has the name of a rule about links.
    #[error("the name '{0}' is used twice, or belongs to a rule about links")]
    NameTaken(String),
    /// The pattern does not compile, or is too large.
    #[error(
        "pattern '{0}' is not a valid regular expression of at most {MAX_PATTERN_LEN} characters, or too large"
    )]
    BadPattern(String),
    /// All patterns together are too large.
    #[error("the patterns are too large together")]
    TooLarge,
}

/// Rules for the content of messages, ready to be applied.
#[derive(Clone, Debug)]
pub struct ContentPolicy {
    links: Option<Links>,
    patterns: Vec<(String, PolicyAction)>,
    set: RegexSet,
}

#[derive(Clone, Debug)]
struct Links {
    allow: Option<HostList>,
    deny: HostList,
    shorteners: bool,
    action: PolicyAction,
}

/// What a policy says of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentVerdict {
    /// No rule matches.
    Pass,
    /// These rules mark the message.
    Flag(Vec<String>),
    /// The message is not accepted because of these rules.
    Refuse(Vec<String>),
}

impl ContentVerdict {
    /// The name in answers.
    pub const fn name(&self) -> &'static str {
        match self {
            ContentVerdict::Pass => "pass",
            ContentVerdict::Flag(_) => "flag",
            ContentVerdict::Refuse(_) => "refuse",
        }
    }

    /// The names of the rules.
    pub fn rules(&self) -> &[String] {
        match self {
            ContentVerdict::Pass => &[],
            ContentVerdict::Flag(rules) | ContentVerdict::Refuse(rules) => rules,
        }
    }
}

impl ContentPolicy {
    /// Compiles a policy.
    ///
    /// # Errors
    /// [`PolicyError`] for what cannot be used.
    pub fn new(
        links: Option<LinkRules>,
        patterns: Vec<PatternRule>,
    ) -> Result<ContentPolicy, PolicyError> {
        let links = links.map(Links::new).transpose()?;
        if patterns.len() > MAX_PATTERNS {
            return Err(PolicyError::TooManyPatterns);
        }
        let mut names: BTreeSet<&str> = BTreeSet::from([RULE_ALLOW, RULE_DENY, RULE_SHORTENERS]);
        for PatternRule { name, regex, .. } in &patterns {
            let is_long = name.chars().count() > MAX_NAME_LEN;
            if name.trim().is_empty() || is_long || name.chars().any(char::is_control) {
                return Err(PolicyError::BadName);
            }
            if !names.insert(name) {
                return Err(PolicyError::NameTaken(name.clone()));
            }
            let is_long = regex.chars().count() > MAX_PATTERN_LEN;
            let compiled = RegexBuilder::new(regex).size_limit(MAX_COMPILED_PATTERN).build();
            if is_long || regex.contains('\0') || compiled.is_err() {
                return Err(PolicyError::BadPattern(name.clone()));
            }
        }
        let set = RegexSetBuilder::new(patterns.iter().map(|pattern| &pattern.regex))
            .size_limit(MAX_COMPILED)
            .dfa_size_limit(MAX_AUTOMATA)
            .build()
            .map_err(|_| PolicyError::TooLarge)?;
        let patterns = patterns.into_iter().map(|rule| (rule.name, rule.action)).collect();
        Ok(ContentPolicy { links, patterns, set })
    }

    /// Number of rules: patterns, and the rules about links that are set.
    pub fn rules(&self) -> usize {
        let links = self.links.as_ref().map_or(0, |links| {
            usize::from(links.allow.is_some())
                + usize::from(!links.deny.is_empty())
                + usize::from(!links.shorteners)
        });
        self.patterns.len() + links
    }

    /// Number of hosts in the lists.
    pub fn hosts(&self) -> usize {
        self.links
            .as_ref()
            .map_or(0, |links| links.allow.as_ref().map_or(0, HostList::len) + links.deny.len())
    }

    /// Judges one text. If a rule refuses, only the rules that refuse are named.
    pub fn judge(&self, text: &str, content_type: ContentType) -> ContentVerdict {
        let forms = forms(text, content_type);
        let mut matched: Vec<(&str, PolicyAction)> = Vec::new();
        if let Some(links) = &self.links {
            let found: BTreeSet<String> =
                forms.iter().flat_map(|form| links::hosts_in(form)).collect();
            matched.extend(links.judge(&found).map(|rule| (rule, links.action)));
        }
        if !self.patterns.is_empty() {
            let mut found = vec![false; self.patterns.len()];
            let plain: Vec<String> = forms.iter().map(|form| normal::visible(form)).collect();
            let sent = text.to_owned();
            for form in forms.iter().chain(&plain).chain([&sent]) {
                self.set.matches(form).into_iter().for_each(|at| found[at] = true);
            }
            let all = self.patterns.iter().zip(found).filter(|(_, found)| *found);
            matched.extend(all.map(|((name, action), _)| (name.as_str(), *action)));
        }
        let Some(action) = matched.iter().map(|(_, action)| *action).max() else {
            return ContentVerdict::Pass;
        };
        let rules = matched.into_iter().filter(|(_, of)| *of == action);
        let rules = rules.map(|(name, _)| name.to_owned()).collect();
        match action {
            PolicyAction::Flag => ContentVerdict::Flag(rules),
            PolicyAction::Refuse => ContentVerdict::Refuse(rules),
        }
    }

    /// Judges a message. Returns the names of the rules that mark it.
    ///
    /// # Errors
    /// The rules that refuse it, by field.
    pub fn judge_message(
        &self,
        subject: Option<&str>,
        content: &str,
        content_type: ContentType,
    ) -> Result<Vec<String>, Vec<FieldError>> {
        let (mut flags, mut refused) = (Vec::new(), Vec::new());
        let subject = subject.map(|text| ("subject", text, ContentType::Text));
        for (field, text, kind) in subject.into_iter().chain([("content", content, content_type)]) {
            match self.judge(text, kind) {
                ContentVerdict::Pass => {}
                ContentVerdict::Flag(rules) => flags.extend(rules),
                ContentVerdict::Refuse(rules) => refused.extend(
                    rules.into_iter().map(|rule| FieldError::new(field, "content_refused", rule)),
                ),
            }
        }
        flags.sort();
        flags.dedup();
        if refused.is_empty() { Ok(flags) } else { Err(refused) }
    }
}

impl Links {
    fn new(rules: LinkRules) -> Result<Links, PolicyError> {
        let written = rules.allow.as_ref().map_or(0, Vec::len) + rules.deny.len();
        if written > MAX_HOSTS {
            return Err(PolicyError::TooManyHosts);
        }
        let list = |written: &[String]| HostList::parse(written).map_err(PolicyError::NoHost);
        Ok(Links {
            allow: rules.allow.as_deref().map(list).transpose()?,
            deny: list(&rules.deny)?,
            shorteners: rules.shorteners,
            action: rules.action,
        })
    }

    fn judge(&self, hosts: &BTreeSet<String>) -> impl Iterator<Item = &'static str> {
        let any = |matches: &dyn Fn(&str) -> bool| hosts.iter().any(|host| matches(host));
        let outside = self.allow.as_ref().is_some_and(|list| any(&|host| !list.contains(host)));
        let denied = any(&|host| self.deny.contains(host));
        let shortened = !self.shorteners && any(&shorteners::is_shortener);
        [(outside, RULE_ALLOW), (denied, RULE_DENY), (shortened, RULE_SHORTENERS)]
            .into_iter()
            .filter_map(|(matched, rule)| matched.then_some(rule))
    }
}

/// The forms in which a client may read a text: as sent, without tags, with entities decoded; a JSON document with
/// its strings unescaped.
fn forms(text: &str, content_type: ContentType) -> Vec<String> {
    let is_json = content_type == ContentType::Json;
    let strings =
        (is_json || text.trim_start().starts_with(['{', '['])).then(|| json_strings::decoded(text));
    let mut found = BTreeSet::new();
    // Escapes of a document are no part of its text.
    let sent = (!is_json).then_some(text);
    for text in sent.into_iter().chain(strings.as_deref()) {
        let joined = normal::without_breaks_in_tags(text);
        for form in [text, &joined, &html::without_tags(text), &normal::without_any_tag(text)] {
            let once = normal::decode_entities(form);
            let twice = normal::decode_entities(&once);
            found.insert(normal::without_any_tag(&once).into_owned());
            found.extend([form.to_owned(), once, twice]);
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests;
