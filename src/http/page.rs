//! The chat page: one document, put together at first use from the files in `page/`, served with a policy that runs
//! exactly its own style and scripts.
//!
//! Each file becomes one inline element, allowed by its SHA-256 and nothing else. So text that somebody manages to turn
//! into markup has no way to run, and nothing is loaded from anywhere; the hashes are computed from the very bytes
//! that are sent, so they cannot drift from them. Runs on the control thread.

use std::sync::LazyLock;

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};

/// The document around the parts, with a marker line where they go.
const DOCUMENT: &str = include_str!("page/page.html");
/// The document's only style sheet.
const STYLE: &str = include_str!("page/page.css");
/// Its scripts, in the order in which they build on each other.
const SCRIPTS: [&str; 6] = [
    include_str!("page/words.js"),
    include_str!("page/link.js"),
    include_str!("page/log.js"),
    include_str!("page/outbox.js"),
    include_str!("page/room.js"),
    include_str!("page/door.js"),
];

static PAGE: LazyLock<Page> = LazyLock::new(Page::assemble);

/// The page as it is sent.
struct Page {
    html: Bytes,
    /// `Content-Security-Policy` (CSP level 3).
    policy: HeaderValue,
    /// Names these bytes: a browser that has them need not fetch them again.
    etag: HeaderValue,
}

impl Page {
    fn assemble() -> Page {
        let style = format!("<style>{STYLE}</style>");
        let scripts = SCRIPTS.map(|script| format!("<script>{script}</script>")).join("\n");
        let html = DOCUMENT.replace("<!-- style -->", &style).replace("<!-- scripts -->", &scripts);
        let etag = format!("\"{}\"", hash(&html));
        Page { policy: header_value(&policy()), etag: header_value(&etag), html: html.into() }
    }
}

/// Nothing is allowed but: these scripts, this style, the icon that the document carries in itself, and talking to the
/// host that served it (`'self'` covers `ws:` and `wss:` there: CSP3 section 6.7.2.8). No script may turn a string
/// into markup (Trusted Types), and no other site may frame the page.
fn policy() -> String {
    let scripts = SCRIPTS.map(|script| format!("'sha256-{}'", hash(script))).join(" ");
    format!(
        "default-src 'none'; script-src {scripts}; style-src 'sha256-{}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
        hash(STYLE)
    )
}

fn hash(text: &str) -> String {
    BASE64_STANDARD.encode(Sha256::digest(text))
}

fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("base64 and the policy's own words are visible ASCII")
}

/// `GET /`: the page, or 304 for a browser that has it.
pub(super) async fn page(request: HeaderMap) -> Response {
    let kept = request.get(header::IF_NONE_MATCH).is_some_and(|etag| etag == PAGE.etag);
    let headers = [
        (header::ETAG, PAGE.etag.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, PAGE.policy.clone()),
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    ];
    match kept {
        true => (StatusCode::NOT_MODIFIED, headers).into_response(),
        false => (headers, PAGE.html.clone()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        close::{Close, Reconnect},
        protocol::InputError,
    };

    #[test]
    fn the_page_has_words_for_every_code_and_returns_only_where_the_server_wants_it() {
        let words = SCRIPTS[0];
        for close in Close::ALL {
            let again = match close.reconnect() {
                Reconnect::Never => "never",
                Reconnect::Soon => "soon",
                Reconnect::Later => "later",
            };
            let line = format!("\n  {}: {{ again: \"{again}\", words: \"", close.code());
            assert_eq!(words.matches(&line).count(), 1, "{line}");
        }
        for error in InputError::ALL {
            let line = format!("\n  {}: \"", error.code());
            assert_eq!(words.matches(&line).count(), 1, "{line}");
        }
    }

    #[test]
    fn each_part_stands_in_the_page_as_it_was_hashed() {
        let html = std::str::from_utf8(&PAGE.html).expect("made from text");
        assert_eq!(html.matches(&format!("<style>{STYLE}</style>")).count(), 1);
        for script in SCRIPTS {
            assert_eq!(html.matches(&format!("<script>{script}</script>")).count(), 1);
        }
        assert_eq!(html.matches("<style").count(), 1);
        assert_eq!(html.matches("<script").count(), SCRIPTS.len());
    }

    #[test]
    fn the_policy_names_every_part_by_its_hash_and_trusts_nothing_else() {
        // The digest of the empty text, from outside (FIPS 180-4 test values), holds the encoding to the standard's.
        assert_eq!(hash(""), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        let policy = PAGE.policy.to_str().expect("visible ASCII");
        for part in SCRIPTS.iter().chain([&STYLE]) {
            assert_eq!(policy.matches(&format!("'sha256-{}'", hash(part))).count(), 1);
        }
        for loose in ["unsafe", "*", "http:", "https:", "blob:"] {
            assert!(!policy.contains(loose), "{loose}");
        }
    }

    #[test]
    fn nothing_in_the_page_needs_what_the_policy_forbids() {
        // No part ends its element early, and the document carries no inline style or handler, which no hash covers.
        for part in SCRIPTS.iter().chain([&STYLE]) {
            assert!(!part.contains("</") && !part.contains("<!--"));
        }
        for tag in DOCUMENT.split('<').filter_map(|rest| Some(rest.split_once('>')?.0)) {
            let names = tag.split_whitespace().filter_map(|word| Some(word.split_once('=')?.0));
            let loose = names.filter(|name| name.starts_with("on") || ["style", "src", "action"].contains(name));
            assert_eq!(loose.collect::<Vec<_>>(), [""; 0], "{tag}");
        }
    }
}
