//! The dashboard: files that are part of the program. They ask nobody else for anything, and nothing of them is secret, so
//! they need no credential; everything that they fetch does.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::refusal::Refusal;

struct Asset {
    /// Below /assets/.
    path: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! assets {
    ($($path:literal as $kind:ident),+ $(,)?) => {
        &[$(Asset {
            path: $path,
            content_type: $kind,
            bytes: include_bytes!(concat!("dashboard/", $path)),
        }),+]
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

const ASSETS: &[Asset] = assets![
    "index.html" as HTML,
    "app.css" as CSS,
    "icon.svg" as SVG,
    "theme.js" as JS,
    "app.js" as JS,
    "api.js" as JS,
    "chart.js" as JS,
    "dialogs.js" as JS,
    "dom.js" as JS,
    "findings.js" as JS,
    "format.js" as JS,
    "parts.js" as JS,
    "pages/acl.js" as JS,
    "pages/configuration.js" as JS,
    "pages/events.js" as JS,
    "pages/login.js" as JS,
    "pages/overview.js" as JS,
    "pages/plugins.js" as JS,
    "pages/sessions.js" as JS,
    "pages/shards.js" as JS,
    "pages/upstreams.js" as JS,
    "pages/users.js" as JS,
];

/// A browser keeps the files, and asks each time whether they are still right: after an update of arus they must fit it.
const CACHING: &str = "no-cache";

static TAGS: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| ASSETS.iter().map(|asset| tag(asset.bytes)).collect());

/// The routes of the dashboard: the page at `/`, the rest below `/assets/`.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(async |headers: HeaderMap| serve("index.html", &headers)))
        .route("/assets/{*path}", get(async |Path(path): Path<String>, headers: HeaderMap| serve(&path, &headers)))
}

fn serve(path: &str, headers: &HeaderMap) -> Response {
    let Some(index) = ASSETS.iter().position(|asset| asset.path == path) else {
        return Refusal::new(StatusCode::NOT_FOUND, "no such file").into_response();
    };
    let (asset, tag) = (&ASSETS[index], &TAGS[index]);
    let is_known = headers.get_all(IF_NONE_MATCH).iter().any(|known| {
        known.to_str().is_ok_and(|known| known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag))
    });
    let (code, body) = match is_known {
        true => (StatusCode::NOT_MODIFIED, Body::empty()),
        false => (StatusCode::OK, Body::from(Bytes::from_static(asset.bytes))),
    };
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let answer = response.headers_mut();
    answer.insert(ETAG, tag.clone());
    answer.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    answer.insert(CACHE_CONTROL, HeaderValue::from_static(CACHING));
    response
}

fn tag(bytes: &[u8]) -> HeaderValue {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut text = String::from("\"");
    for byte in &digest.as_ref()[..16] {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('"');
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("\"0\""))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn text(asset: &Asset) -> &'static str {
        std::str::from_utf8(asset.bytes).unwrap()
    }

    #[test]
    fn every_file_is_served_and_nothing_is_far_away() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/control/admin/dashboard");
        let files = |directory: &std::path::Path| -> Vec<_> {
            std::fs::read_dir(directory)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.is_file())
                .collect()
        };
        let mut found = files(&directory);
        found.extend(files(&directory.join("pages")));
        assert_eq!(found.len(), ASSETS.len(), "ASSETS and the directory differ");
        let size: usize = ASSETS.iter().map(|asset| asset.bytes.len()).sum();
        assert!(size < 200 * 1024, "{size} bytes is not small");
        for asset in ASSETS {
            let text = text(asset).replace("http://www.w3.org/2000/svg", "");
            for word in [
                "http://",
                "https://",
                "//cdn",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "eval(",
                " style=",
                "document.write",
            ] {
                assert!(!text.contains(word), "{} has {word:?}", asset.path);
            }
            for line in text.lines().filter(|line| line.starts_with("import ") && asset.content_type == JS) {
                let from = line.split('\'').nth(1).unwrap();
                let base = if asset.path.starts_with("pages/") { "pages/" } else { "" };
                let path = format!("{base}{}", from.trim_start_matches("./"));
                let path = path.strip_prefix("pages/../").unwrap_or(&path);
                assert!(ASSETS.iter().any(|other| other.path == path), "{} imports {from}", asset.path);
            }
        }
    }

    #[test]
    fn a_page_that_the_browser_has_is_not_sent_again() {
        let first = serve("index.html", &HeaderMap::new());
        assert_eq!((first.status(), first.headers()[CONTENT_TYPE].to_str().unwrap()), (StatusCode::OK, HTML));
        let mut headers = HeaderMap::new();
        headers.insert(IF_NONE_MATCH, first.headers()[ETAG].clone());
        assert_eq!(serve("index.html", &headers).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(serve("app.js", &headers).status(), StatusCode::OK);
        for path in ["", "../dashboard.rs", "pages/", "pages/nothing.js"] {
            assert_eq!(serve(path, &HeaderMap::new()).status(), StatusCode::NOT_FOUND, "{path}");
        }
    }
}
