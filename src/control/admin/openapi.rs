//! The API's own description.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::PathItem;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, ResponseBuilder};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;

use super::refusal::Problem;

#[derive(OpenApi)]
#[openapi(
    info(title = "arus", description = "See and steer a running arus.", license(name = "MIT", identifier = "MIT")),
    components(schemas(Problem)),
    modifiers(&Schemes),
    security(("token" = []), ("cookie" = [])),
)]
struct Description;

/// How callers show who they are.
struct Schemes;

impl Modify for Schemes {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(
            "token",
            SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()),
        );
        components
            .add_security_scheme("cookie", SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new("arus_session"))));
    }
}

pub(super) fn router<S: Clone + Send + Sync + 'static>() -> OpenApiRouter<S> {
    OpenApiRouter::with_openapi(Description::openapi())
}

/// The description with what the door may answer to every request.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let (_, mut document) = super::endpoints().split_for_parts();
    for path in document.paths.paths.values_mut() {
        let PathItem { get, post, delete, put, .. } = path;
        for (operation, is_change) in [(get, false), (post, true), (delete, true), (put, true)] {
            let Some(operation) = operation else { continue };
            let is_public = operation.security.is_some();
            for (code, description, is_there) in [
                ("400", "A parameter or header is wrong", true),
                ("401", "No credential, or none that counts", !is_public),
                ("403", "A credential of scope read, no CSRF header, or another site's page", is_change),
                ("408", "The body took too long", is_change),
                ("413", "The body is too large", is_change),
                ("421", "The Host header has a name that is not known", true),
                ("429", "Too many failures from this address", !is_public),
            ] {
                let responses = &mut operation.responses.responses;
                if is_there && !responses.contains_key(code) {
                    responses.insert(code.into(), problem(description).into());
                }
            }
        }
    }
    document.to_json().unwrap_or_default()
});

fn problem(description: &str) -> utoipa::openapi::Response {
    let schema = utoipa::openapi::Ref::from_schema_name("Problem");
    ResponseBuilder::new()
        .description(description)
        .content("application/json", ContentBuilder::new().schema(Some(schema)).build())
        .build()
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "status", responses(
    (status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json"),
))]
pub(super) async fn show() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}
