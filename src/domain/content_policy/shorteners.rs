//! Hosts of URL shorteners: such a link does not show where it leads.

/// Known URL shorteners. Subdomains count as well.
const SHORTENERS: &[&str] = &[
    "adf.ly",
    "b.link",
    "bit.do",
    "bit.ly",
    "bitly.com",
    "bl.ink",
    "buff.ly",
    "clck.ru",
    "cutt.ly",
    "db.tt",
    "dlvr.it",
    "fb.me",
    "goo.gl",
    "goo.su",
    "is.gd",
    "j.mp",
    "kutt.it",
    "lnkd.in",
    "mcaf.ee",
    "ow.ly",
    "qr.ae",
    "rb.gy",
    "rebrand.ly",
    "rotf.lol",
    "s.id",
    "short.gy",
    "short.io",
    "shorte.st",
    "shorturl.at",
    "snip.ly",
    "soo.gd",
    "su.pr",
    "surl.li",
    "t.co",
    "t.ly",
    "t2m.io",
    "tiny.cc",
    "tiny.pl",
    "tinyurl.com",
    "tny.im",
    "tr.im",
    "u.to",
    "v.gd",
    "vk.cc",
    "vo.la",
    "vu.fr",
    "wp.me",
    "x.co",
];

/// Whether a host is that of a URL shortener.
pub(super) fn is_shortener(host: &str) -> bool {
    SHORTENERS.iter().any(|known| {
        host.strip_suffix(known).is_some_and(|before| before.is_empty() || before.ends_with('.'))
    })
}
