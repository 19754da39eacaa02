//! The access rules in force with their hits, and a question to them: it is answered by what decides for live traffic.

use std::net::IpAddr;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::Json;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::refusal::{Problem, Refusal};
use crate::config::plan;
use crate::control::handle::Control;
use crate::policy::acl::{Acl, Ask, Rule};
use crate::policy::host::Host;
use crate::types::{Name, Protocol};

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Rules {
    /// allow | block: what is done where no rule holds.
    default: String,
    /// In the order in which they count.
    rules: Vec<Shown>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Shown {
    /// Its description, or else its place.
    rule: String,
    file: String,
    line: u32,
    /// allow | block
    action: String,
    priority: i32,
    description: Option<String>,
    users: Option<Vec<String>>,
    groups: Option<Vec<String>>,
    sources: Option<Vec<String>>,
    destinations: Option<Vec<String>>,
    ports: Option<Vec<String>>,
    protocols: Option<Vec<String>>,
    listeners: Option<Vec<String>>,
    /// Decisions of live traffic.
    hits: u64,
}

fn words<T: ToString>(list: Option<&Vec<T>>) -> Option<Vec<String>> {
    list.map(|list| list.iter().map(ToString::to_string).collect())
}

fn rule(rule: &Rule, hits: u64) -> Shown {
    let conditions = &rule.conditions;
    let port = |range: &std::ops::RangeInclusive<u16>| match range.start() == range.end() {
        true => range.start().to_string(),
        false => format!("{}-{}", range.start(), range.end()),
    };
    Shown {
        rule: rule.label().to_string(),
        file: rule.file.to_string(),
        line: rule.line,
        action: rule.action.word().into(),
        priority: rule.priority,
        description: rule.description.as_deref().map(Into::into),
        users: words(conditions.users.as_ref()),
        groups: words(conditions.groups.as_ref()),
        sources: words(conditions.sources.as_ref()),
        destinations: words(conditions.destinations.as_ref()),
        ports: conditions.ports.as_ref().map(|ports| ports.iter().map(port).collect()),
        protocols: words(conditions.protocols.as_ref()),
        listeners: words(conditions.listeners.as_ref()),
        hits,
    }
}

/// The access rules in force, in the order in which they count.
#[utoipa::path(get, path = "/api/v1/acl/rules", tag = "acl", responses((status = 200, body = Rules)))]
pub(super) async fn rules(State(control): State<Control>) -> Json<Rules> {
    let snapshot = &control.view().snapshot;
    let default = snapshot.acl.default_action().word().into();
    Json(Rules { default, rules: snapshot.acl.rules().map(|(each, hits)| rule(each, hits)).collect() })
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    /// Absent: one that had to prove nothing.
    user: Option<String>,
    /// Absent: those that the configuration gives the user.
    groups: Option<Vec<String>>,
    #[schema(value_type = Option<String>)]
    source: Option<IpAddr>,
    /// A name is judged as such; no address of it is looked up.
    destination: String,
    port: u16,
    /// tcp | udp; absent: tcp
    protocol: Option<String>,
    /// Absent: the first listener that serves SOCKS.
    listener: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Answer {
    /// allow | block
    decision: String,
    /// The rule that decided: its description, or else its place. Absent: none did.
    rule: Option<String>,
    file: Option<String>,
    line: Option<u32>,
    /// Why, where no rule decided: `default`, or `reserved destination`.
    because: Option<String>,
}

/// Who may go where, by the rules in force.
#[utoipa::path(post, path = "/api/v1/acl/test", tag = "acl", request_body = Question, responses(
    (status = 200, body = Answer),
    (status = 400, description = "The question cannot be understood", body = Problem),
    (status = 415, description = "It is not JSON", body = Problem),
))]
pub(super) async fn test(
    State(control): State<Control>,
    question: Result<Json<Question>, JsonRejection>,
) -> Result<Json<Answer>, Refusal> {
    let Json(question) = question?;
    let snapshot = &control.view().snapshot;
    answer(&snapshot.acl, &snapshot.plan, &question).map(Json)
}

fn answer(acl: &Acl, plan: &plan::Plan, question: &Question) -> Result<Answer, Refusal> {
    let bad = |message: String| Refusal::new(StatusCode::BAD_REQUEST, message);
    let host = Host::parse(question.destination.as_bytes())
        .map_err(|malformed| bad(format!("`destination` is no host: {malformed}")))?;
    let word = question.protocol.as_deref().unwrap_or("tcp");
    let protocol = Protocol::ALL.iter().find(|protocol| protocol.label() == word);
    let protocol = *protocol.ok_or_else(|| bad("`protocol` is neither tcp nor udp".into()))?;
    let groups: Vec<Name> = match &question.groups {
        Some(groups) => groups.iter().map(|group| group.as_str().into()).collect(),
        None => plan.auth.groups_of(question.user.as_deref()).to_vec(),
    };
    let of_socks = plan.listeners.iter().find(|listener| listener.service == plan::Service::Socks5);
    let listener = question.listener.as_deref().or(of_socks.map(|listener| &*listener.name)).unwrap_or_default();
    let decision = acl.decide(&Ask {
        user: question.user.as_deref(),
        groups: &groups,
        source: question.source.map(|source| source.to_canonical()),
        host,
        port: question.port,
        protocol,
        listener,
    });
    let rule = acl.rule(&decision);
    Ok(Answer {
        decision: decision.action.word().into(),
        rule: rule.map(|rule| rule.label().to_string()),
        file: rule.map(|rule| rule.file.to_string()),
        line: rule.map(|rule| rule.line),
        because: Acl::words(&decision).map(Into::into),
    })
}

/// As the configuration says it.
pub(super) fn shown(acl: &plan::Acl) -> Value {
    let plan::Acl { default, file, reevaluate, rules } = acl;
    let rules: Vec<Shown> = rules.iter().map(|each| rule(each, 0)).collect();
    let mut rules = json!(rules);
    for rule in rules.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        rule.retain(|key, value| !value.is_null() && key != "hits" && key != "rule");
    }
    json!({
        "default": default.word(),
        "file": file.as_ref().map(|file| &file.path),
        "reevaluate": reevaluate,
        "rule": rules,
    })
}
