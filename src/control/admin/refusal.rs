//! The one shape of an error answer: `{"error": "..."}` with its status code.

use std::time::Duration;

use axum::extract::Request;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug)]
pub(super) struct Refusal {
    code: StatusCode,
    message: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why a request was refused.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Problem {
    error: String,
}

impl Refusal {
    pub(super) fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), headers: Vec::new() }
    }

    /// There is no credential, or none that counts.
    pub(super) fn unauthorised(message: &str) -> Self {
        let mut refusal = Self::new(StatusCode::UNAUTHORIZED, message);
        refusal.headers.push((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"arus\"")));
        refusal
    }

    /// As RFC 6750 section 3.1 has it.
    pub(super) fn wrong_token(mut self) -> Self {
        let value = HeaderValue::from_static("Bearer realm=\"arus\", error=\"invalid_token\"");
        self.headers = vec![(header::WWW_AUTHENTICATE, value)];
        self
    }

    /// Too many failures; the next may be tried after `wait`.
    pub(super) fn too_many(wait: Duration) -> Self {
        let seconds = wait.as_secs() + 1;
        let message = format!("too many failed attempts; try again in {seconds} s");
        Self::new(StatusCode::TOO_MANY_REQUESTS, message).retry_after(seconds)
    }

    pub(super) fn retry_after(mut self, seconds: u64) -> Self {
        self.headers.push((header::RETRY_AFTER, HeaderValue::from(seconds)));
        self
    }
}

/// Brings what axum refuses by itself, in plain text, into the shape of all other refusals.
pub(super) async fn in_our_shape(request: Request, next: Next) -> Response {
    /// Of such a text; it may repeat a part of the request.
    const MOST: usize = 16 * 1024;
    let response = next.run(request).await;
    let code = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    if !(code.is_client_error() || code.is_server_error())
        || !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"))
    {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), MOST).await.unwrap_or_default();
    Refusal::new(code, String::from_utf8_lossy(&text)).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.code, Json(Problem { error: self.message })).into_response();
        response.headers_mut().extend(self.headers);
        response
    }
}

impl From<PathRejection> for Refusal {
    fn from(rejection: PathRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<JsonRejection> for Refusal {
    /// Whatever is wrong with a body is a bad request.
    fn from(rejection: JsonRejection) -> Self {
        let code = match rejection {
            JsonRejection::MissingJsonContentType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(code, rejection.body_text())
    }
}
