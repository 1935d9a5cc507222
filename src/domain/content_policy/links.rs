//! The hosts that a text links to, as browsers and apps that turn text into links read them.
//!
//! After a scheme or `//` everything up to the path is an authority: its host counts, whatever it looks like. A
//! host without a scheme counts if a path or a port follows, if it begins with `www.`, if it is a dotted IPv4
//! address, or if its last label is a known top-level domain. E-mail addresses do not count unless a path
//! follows.

use std::collections::BTreeSet;

use super::{hosts::normal_host, normal};

/// All hosts in a text, in their compared form.
pub(super) fn hosts_in(text: &str) -> BTreeSet<String> {
    let text: Vec<char> = normal::address_form(text).chars().collect();
    let mut scan = Scan { text: &text, at: 0, found: BTreeSet::new() };
    while scan.at < text.len() {
        scan.step();
    }
    scan.found
}

/// How a host was written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    /// After a scheme and slashes: it is a link whatever it looks like.
    WithScheme,
    /// A path or a port follows.
    WithPath,
    /// Alone.
    Bare,
}

struct Scan<'a> {
    text: &'a [char],
    at: usize,
    found: BTreeSet<String>,
}

fn is_host_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '%') || is_mark(c)
}

/// Combining marks and joined characters of scripts that need them are letters to a host.
fn is_mark(c: char) -> bool {
    !c.is_ascii() && !c.is_whitespace() && !c.is_control() && !is_punctuation(c)
}

/// Punctuation outside ASCII that ends a host in running text.
fn is_punctuation(c: char) -> bool {
    matches!(c,
        '\u{a1}'..='\u{a9}' | '\u{ab}'..='\u{b4}' | '\u{b6}'..='\u{b9}' | '\u{bb}'..='\u{bf}' | '\u{d7}' | '\u{f7}'
        | '\u{60c}' | '\u{60d}' | '\u{61b}' | '\u{61f}' | '\u{66a}'..='\u{66d}' | '\u{6d4}'
        | '\u{2000}'..='\u{2bff}' | '\u{3000}'..='\u{3004}' | '\u{3008}'..='\u{3020}' | '\u{fd3e}' | '\u{fd3f}'
        | '\u{fe10}'..='\u{fe6f}' | '\u{1f000}'..='\u{1faff}')
}

/// What ends an authority.
fn ends_authority(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '/' | '?' | '#' | '"' | '<' | '>' | '`')
}

/// Characters of a user name in an address that apps do not take for the end of the address.
fn is_userinfo_char(c: char) -> bool {
    is_host_char(c) || matches!(c, ':' | '@' | '+' | '~' | '!' | '$' | '&' | '=')
}

fn is_scheme_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')
}

impl Scan<'_> {
    fn peek(&self, at: usize) -> Option<char> {
        self.text.get(at).copied()
    }

    /// The end of the run of characters from a place on.
    fn run(&self, from: usize, is_in: impl Fn(char) -> bool) -> usize {
        let rest = self.text.get(from..).unwrap_or_default();
        from + rest.iter().position(|c| !is_in(*c)).unwrap_or(rest.len())
    }

    fn slice(&self, from: usize, to: usize) -> String {
        self.text.get(from..to).unwrap_or_default().iter().collect()
    }

    fn step(&mut self) {
        let Some(c) = self.peek(self.at) else { return };
        if c == '/' && self.peek(self.at + 1) == Some('/') {
            // No scheme: the address has that of the page.
            let from = self.run(self.at, |c| c == '/');
            self.authority(from, Written::WithPath);
        } else if c == ':'
            && self.peek(self.at + 1) == Some('/')
            && self.peek(self.at + 2) == Some('/')
        {
            // After something that is no scheme name.
            self.at += 1;
        } else if is_host_char(c) {
            self.word();
        } else {
            self.at += 1;
        }
    }

    /// A run of host characters: a scheme, a host, or an ordinary word.
    fn word(&mut self) {
        let (from, end) = (self.at, self.run(self.at, is_host_char));
        if self.peek(end) == Some(':') {
            let slashes = self.run(end + 1, |c| c == '/') - end - 1;
            let word = self.slice(from, end);
            let scheme: String = {
                let reversed: Vec<char> =
                    word.chars().rev().take_while(|c| is_scheme_char(*c)).collect();
                reversed.into_iter().rev().collect()
            };
            let is_web = matches!(scheme.as_str(), "https" | "http" | "ftp" | "wss" | "ws");
            let is_scheme = scheme.chars().any(|c| c.is_ascii_alphabetic());
            if (slashes >= 2 && is_scheme) || (slashes == 1 && is_web) {
                if scheme.contains('.') {
                    self.hosts_of(&word, Written::Bare);
                }
                return self.authority(end + 1 + slashes, Written::WithScheme);
            }
            if slashes == 0 && is_web {
                return self.authority(end + 1, Written::WithPath);
            }
        }
        self.bare(from, end);
    }

    /// The part of an address after the slashes.
    fn authority(&mut self, from: usize, written: Written) {
        if self.peek(from) == Some('[') || self.userinfo_then_bracket(from).is_some() {
            let open = self.userinfo_then_bracket(from).unwrap_or(from);
            let close = self.run(open, |c| c != ']' && !c.is_whitespace());
            if self.peek(close) == Some(']') {
                self.found.extend(normal_host(&self.slice(open, close + 1)));
                self.at = self.path(close + 1);
                return;
            }
        }
        let end = self.run(from, |c| !ends_authority(c));
        let whole = self.text.get(from..end).unwrap_or_default();
        let host = whole.iter().rposition(|c| *c == '@').map_or(from, |at| from + at + 1);
        let host_end = self.run(host, is_host_char).min(end);
        if self.text.get(from..host).unwrap_or_default().iter().any(|c| !is_userinfo_char(*c)) {
            // Some apps end the address before the user name does.
            let first_end = self.run(from, is_host_char).min(end);
            self.hosts_of(&self.slice(from, first_end), written);
        }
        self.hosts_of(&self.slice(host, host_end), written);
        // The rest may be another address that only punctuation parts from this one.
        self.at = self.path(host_end).max(from).max(self.at + 1);
    }

    /// Where the bracket of an IPv6 address begins after userinfo.
    fn userinfo_then_bracket(&self, from: usize) -> Option<usize> {
        let end = self.run(from, |c| !ends_authority(c) && c != '[');
        let is_after = end > from && self.peek(end) == Some('[') && self.peek(end - 1) == Some('@');
        is_after.then_some(end)
    }

    /// The end of port, path and query after a host. An address inside them begins with its scheme, and is
    /// found by itself.
    fn path(&self, host_end: usize) -> usize {
        let mut at = host_end;
        if self.peek(at) == Some(':') {
            at = self.run(at + 1, |c| c.is_ascii_digit());
        }
        if !matches!(self.peek(at), Some('/' | '?' | '#')) {
            return at;
        }
        let is_path = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '`');
        let end = self.run(at, is_path);
        let path = self.text.get(at..end).unwrap_or_default();
        let inner = path.windows(3).position(|three| three == [':', '/', '/']);
        inner.map_or(end, |inner| {
            let mark = at + inner;
            let before = self.text.get(at..mark).unwrap_or_default();
            at + before.iter().rposition(|c| !is_scheme_char(*c)).map_or(0, |place| place + 1)
        })
    }

    /// A run without a scheme before it.
    fn bare(&mut self, from: usize, end: usize) {
        let before = from.checked_sub(1).and_then(|at| self.peek(at));
        let local = from.checked_sub(2).and_then(|at| self.peek(at));
        let (next, after) = (self.peek(end), self.peek(end + 1));
        let has_port = next == Some(':') && after.is_some_and(|c| c.is_ascii_digit());
        let has_path = matches!(next, Some('/' | '?' | '#')) || has_port;
        let is_of_mail = before == Some('@') && local.is_some_and(|c| is_host_char(c) || c == '+');
        // The name before an @ is a mailbox or userinfo.
        let is_mailbox = next == Some('@') && after.is_some_and(is_host_char);
        let counts = !is_mailbox && (!is_of_mail || has_path);
        // A question mark ends a sentence more often than it begins a query.
        let leads = next == Some('/')
            || (has_path && after.is_some_and(|c| !c.is_whitespace()))
            || has_port;
        let written = if leads { Written::WithPath } else { Written::Bare };
        let is_found = counts && self.hosts_of(&self.slice(from, end), written);
        self.at = if is_found { self.path(end) } else { end };
    }

    /// The hosts that a run of host characters may stand for.
    /// Returns whether there are any.
    fn hosts_of(&mut self, run: &str, written: Written) -> bool {
        let mut is_found = false;
        let decoded = percent_decoded(run);
        let run = decoded.as_deref().unwrap_or(run);
        let mut first = true;
        for piece in run.split("..").flat_map(|piece| piece.split(|c| !is_host_char(c) || c == '%'))
        {
            let trimmed = piece.trim_matches(|c: char| matches!(c, '.' | '-' | '_' | '~' | '*'));
            if trimmed.is_empty() {
                continue;
            }
            let written = if std::mem::take(&mut first) { written } else { Written::Bare };
            for candidate in candidates(trimmed) {
                let host =
                    normal_host(&candidate).filter(|host| is_link(host, &candidate, written));
                is_found |= host.is_some();
                self.found.extend(host);
            }
        }
        is_found
    }
}

/// A run with its percent-encoded characters decoded, if there are any and they are text.
fn percent_decoded(run: &str) -> Option<String> {
    if !run.contains('%') {
        return None;
    }
    let mut bytes = Vec::with_capacity(run.len());
    let mut rest = run.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let encoded = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match encoded.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok().map(|text| normal::address_form(&text))
}

/// What of a run can be a host. No top-level domain mixes ASCII letters with others, so text that follows
/// without a space is cut off the last label. Before the host both readings are possible.
fn candidates(run: &str) -> Vec<String> {
    let run = match run.rfind('.') {
        None => run,
        Some(dot) => {
            let label = run.get(dot + 1..).unwrap_or_default();
            let is_mixed = label.starts_with(|c: char| c.is_ascii_alphabetic());
            match label
                .find(|c: char| !c.is_ascii())
                .filter(|_| is_mixed && !label.starts_with("xn--"))
            {
                Some(end) => run.get(..dot + 1 + end).unwrap_or(run),
                None => run,
            }
        }
    };
    let mut all = vec![run.to_owned()];
    // A sentence in another script after the host may have dots of its own.
    if let Some(foreign) = run.find(is_foreign) {
        let head = run.get(..foreign).unwrap_or_default().trim_end_matches(['.', '-', '_']);
        if head.rsplit_once('.').is_some_and(|(_, last)| is_top_level(last)) {
            all.push(head.to_owned());
        }
    }
    // A word in another script may stand directly before the host.
    if let Some((at, c)) = run.char_indices().rev().find(|(_, c)| is_foreign(*c)) {
        let label = run.get(..at).and_then(|before| before.rfind('.')).map_or(0, |dot| dot + 1);
        let is_word = run.get(label..at).unwrap_or_default().chars().all(is_foreign);
        let tail =
            run.get(at + c.len_utf8()..).unwrap_or_default().trim_start_matches(['.', '-', '_']);
        if is_word && tail.contains('.') {
            all.push(tail.to_owned());
        }
    }
    // No registered name has an underscore: there it is a decoration.
    if let Some(at) = run.rfind('_') {
        let tail = run.get(at + 1..).unwrap_or_default();
        if tail.contains('.') && tail.matches('.').count() == 1 {
            all.push(tail.to_owned());
        }
    }
    all
}

/// Whether a letter belongs to another script than Latin.
fn is_foreign(c: char) -> bool {
    c > '\u{24f}' && !matches!(c, '\u{1e00}'..='\u{1eff}')
}

fn is_link(host: &str, written_as: &str, written: Written) -> bool {
    if written == Written::WithScheme {
        return true;
    }
    let Some((before, last)) = host.rsplit_once('.') else { return false };
    if last.chars().all(|c| c.is_ascii_digit()) {
        // An IPv4 address; a number or a version with fewer parts is none.
        return written_as.matches('.').count() == 3;
    }
    let is_name = last.starts_with("xn--")
        || (last.len() > 1 && last.chars().all(|c| c.is_ascii_alphabetic()));
    is_name
        && (written == Written::WithPath
            || (host.starts_with("www.") && before.contains('.'))
            || is_top_level(last))
}

/// Whether a label is a top-level domain in wide use.
fn is_top_level(label: &str) -> bool {
    let is_in = |list: &str| list.split(' ').any(|known| known == label);
    is_in(if label.len() == 2 { COUNTRIES } else { GENERIC })
}

/// Top-level domains of countries.
const COUNTRIES: &str = "ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs \
bt bw by bz ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk \
fm fo fr ga gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm \
jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms \
mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs ru \
rw sa sb sc sd se sg sh si sj sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz \
ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw";

/// Generic top-level domains in wide use, and those in other scripts.
const GENERIC: &str = "academy accountant accountants ads africa agency amsterdam analytics app apartments arab art \
asia associates auction audio auto autos baby band bank bar beauty beer berlin best bet bid bike bingo bio biz black \
blog blue boats bond boo boutique box broker build builders business buzz cab cafe cam camera camp capital cards care \
careers cars casa cash casino cat center ceo cfd chat cheap christmas church city claims cleaning click clinic \
clothing cloud club coach codes coffee college com community company computer consulting contact contractors cool \
coop coupons courses credit creditcard cricket cruises cyou dad date dating day deal deals delivery dental design dev \
diamonds diet digital direct directory discount doctor dog domains download earth eco edu education email energy \
engineer engineering enterprises equipment esq estate events exchange expert express faith family fan fans farm \
fashion film finance financial fish fit fitness flights florist flowers foo forex forum foundation fun fund furniture \
futbol fyi gallery game games garden gay gift gifts gives glass global gmbh gold golf gov graphics gratis green gripe \
group guide guitars guru hair haus health healthcare help hiphop hockey holdings holiday homes horse hospital host \
hosting house how icu immo inc industries info ing ink institute insure int international investments jewelry jobs \
juegos kim kitchen land law lawyer lease legal lgbt life lighting limited limo link live living loan loans lol london \
lotto love ltd ltda luxe luxury maison makeup management market marketing markets mba media meme men miami mil mobi \
moda moe mom money monster mortgage motorcycles mov movie museum name net network new news nexus ngo ninja nyc one ong \
onl online ooo org organic page paris partners parts party pet phone photo photography photos pics pictures pink pizza \
place plumbing plus poker porn press pro productions prof promo properties property protection pub quest racing realty \
recipes red rehab reise rent rentals repair report republican rest restaurant review reviews rich rip rocks rodeo run \
sale salon sbs school science security services sex sexy shiksha shoes shop shopping show singles site ski skin social \
software solar solutions space sport spot srl storage store stream studio study style sucks supplies supply support \
surf surgery systems talk tattoo tax taxi team tech technology tel tennis theater theatre tickets tienda tips tires \
today tokyo tools top tours town toys trade trading training travel tube university uno vacations vegas ventures vet \
viajes video villas vin vip vision vodka vote voto voyage watch watches web webcam website wedding whoswho wiki win \
wine work works world wtf xin xxx xyz yachts yoga you zip zone \
xn--p1ai xn--p1acf xn--80asehdb xn--80aswg xn--j1amh xn--j1aef xn--c1avg xn--90ais xn--d1acj3b xn--80adxhks \
xn--fiqs8s xn--fiqz9s xn--55qx5d xn--io0a7i xn--ses554g xn--3ds443g xn--fiq228c5hs xn--j6w193g xn--kprw13d xn--kpry57d \
xn--czru2d xn--hxt814e xn--3e0b707e xn--q9jyb4c xn--tckwe xn--t60b56a xn--h2brj9c xn--o3cw4h xn--ngbc5azd \
xn--mgberp4a5d4ar xn--wgbh1c xn--mgbaam7a8h xn--mgb2ddes xn--mgbayh7gpa xn--mgb9awbf xn--wgbl6a xn--mgbc0a9azcg \
xn--pgbs0dh xn--ygbi2ammx xn--mgbtx2b xn--lgbbat1ad8j xn--ogbpf8fl xn--mgba3a4f16a xn--4gbrim xn--mgbab2bd \
xn--mgbca7dzdo xn--fzys8d69uvgm xn--mxtq1m xn--vhquv";
