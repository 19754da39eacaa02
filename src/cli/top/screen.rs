//! One frame of `arus top`. Sections give way in a small window: first the sparklines, then latency, then rows.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table};

use super::sample::Samples;
use crate::cli::status::in_use;
use crate::cli::units;
use crate::control::admin::status::Status;

/// What of the view the user has chosen, and what went wrong.
#[derive(Debug, Default)]
pub(super) struct Choices {
    pub(super) paused: bool,
    pub(super) interval: Duration,
    /// First backend that is shown.
    pub(super) scroll: usize,
    /// Why the last reading failed.
    pub(super) trouble: Option<String>,
}

/// Width of the bar of a shard's busy share.
const BAR: usize = 10;

/// Rows of a window that shows everything of these samples.
pub(super) fn full_height(samples: &Samples) -> u16 {
    let rows = samples.status.as_ref().map_or(0, |status| status.shards.len() + backends(status).count());
    u16::try_from(rows)
        .unwrap_or(u16::MAX)
        .saturating_add(HEADER + TROUBLE + SPARKLINES + LATENCY + 2 + FOOTER)
        .min(500)
}

const HEADER: u16 = 2;
/// Who is waited for, and whose failures there were.
const TROUBLE: u16 = 2;
const SPARKLINES: u16 = 5;
const LATENCY: u16 = 4;
const FOOTER: u16 = 1;

pub(super) fn draw(frame: &mut Frame<'_>, samples: &Samples, choices: &Choices) {
    let Some(status) = &samples.status else {
        let text = choices.trouble.clone().unwrap_or_else(|| "waiting for arus".into());
        frame.render_widget(Paragraph::new(text), frame.area());
        return;
    };
    let height = frame.area().height;
    let shard_rows = u16::try_from(status.shards.len()).unwrap_or(u16::MAX).saturating_add(1);
    let backend_rows = u16::try_from(backends(status).count()).unwrap_or(u16::MAX).saturating_add(1);
    let body = height.saturating_sub(HEADER + FOOTER);
    // The tables need a heading and a row each before anything else is shown.
    let trouble = if body >= TROUBLE + 4 { TROUBLE } else { 0 };
    let body = body - trouble;
    let sparklines = if body >= SPARKLINES + LATENCY + 4 { SPARKLINES } else { 0 };
    let latency = if body >= LATENCY + 4 { LATENCY } else { 0 };
    let tables = body - sparklines - latency;
    let shards = shard_rows.min((tables / 2).max(tables.saturating_sub(backend_rows)));
    let [header, trouble, traffic, shards, upstreams, latency, footer] = Layout::vertical([
        Constraint::Length(HEADER),
        Constraint::Length(trouble),
        Constraint::Length(sparklines),
        Constraint::Length(shards),
        Constraint::Fill(1),
        Constraint::Length(latency),
        Constraint::Length(FOOTER),
    ])
    .areas(frame.area());

    draw_header(frame, header, status, sparklines == 0);
    draw_trouble(frame, trouble, samples);
    draw_traffic(frame, traffic, status, samples);
    draw_shards(frame, shards, status);
    draw_backends(frame, upstreams, status, choices.scroll);
    draw_latency(frame, latency, status);
    draw_footer(frame, footer, choices);
}

/// The rates stand over their sparklines, and here where a small window has none.
fn draw_header(frame: &mut Frame<'_>, area: Rect, status: &Status, with_rates: bool) {
    let uptime = units::span(Duration::from_secs(status.uptime_seconds));
    let config = status.config.as_ref().map_or("built-in example".into(), |path| path.display().to_string());
    let state = if status.draining { " DRAINING".red().bold() } else { "".into() };
    let stuck: Vec<String> = status.missing_shards.iter().map(|shard| format!(" SHARD {shard} STUCK")).collect();
    let title = Line::from(vec![
        format!("arus {}", status.version).bold(),
        state,
        stuck.concat().red().bold(),
        format!("  pid {}  up {uptime}  generation {}  {config}", status.pid, status.generation).into(),
    ]);
    let totals = &status.totals;
    let mut connections = vec![
        "connections ".dim(),
        in_use(&status.limits.connections).bold(),
        "  new ".dim(),
        units::rate(totals.accepted_per_second).bold(),
        "  rejected ".dim(),
        units::count(totals.rejected).into(),
        "  failed ".dim(),
        units::count(totals.failed).into(),
    ];
    if with_rates {
        let (up, down) = (totals.flow.bytes_up_per_second, totals.flow.bytes_down_per_second);
        connections.extend(["  up ".dim(), units::bytes_per_second(up).bold()]);
        connections.extend(["  down ".dim(), units::bytes_per_second(down).bold()]);
    }
    frame.render_widget(Paragraph::new(vec![title, connections.into()]), area);
}

/// Is it us, the client or the backend?
fn draw_trouble(frame: &mut Frame<'_>, area: Rect, samples: &Samples) {
    let mut waited = vec!["waited for   ".dim()];
    match &samples.verdicts {
        None => waited.push("not known".dim()),
        Some(verdicts) => {
            for (who, name) in [("us", "arus"), ("backend", "backends"), ("client", "clients")] {
                let count = verdicts.counts.get(who).copied().unwrap_or(0);
                let number = Span::from(format!("{count}  "));
                waited.extend([
                    format!("{name} ").dim(),
                    match (who, count) {
                        (_, 0) => number,
                        ("client", _) => number.yellow().bold(),
                        _ => number.red().bold(),
                    },
                ]);
            }
            let judged: usize = verdicts.counts.values().sum();
            waited.push(format!("of {judged} sessions looked at").dim());
        }
    }
    let mut failed = vec!["failed by    ".dim()];
    for (blame, count, late) in samples.failures() {
        let late = Span::from(format!("+{late}"));
        let late = if late.content == "+0" { late.dim() } else { late.red().bold() };
        failed.extend([format!("{blame} ").dim(), units::count(count).into(), " ".into(), late, "  ".into()]);
    }
    failed.push(if failed.len() == 1 { "nobody".dim() } else { "in the last minute".dim() });
    frame.render_widget(Paragraph::new(vec![Line::from(waited), Line::from(failed)]), area);
}

fn draw_traffic(frame: &mut Frame<'_>, area: Rect, status: &Status, samples: &Samples) {
    if area.height < 2 {
        return;
    }
    let [left, _, right] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let flow = &status.totals.flow;
    let sides = [
        (left, "up", flow.bytes_up_per_second, &samples.up, Color::Cyan),
        (right, "down", flow.bytes_down_per_second, &samples.down, Color::Green),
    ];
    for (area, name, rate, past, colour) in sides {
        let [title, graph] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
        let shown = past.len().min(usize::from(graph.width));
        let recent: Vec<u64> = past.iter().skip(past.len() - shown).copied().collect();
        let most = units::bytes_per_second(recent.iter().copied().max().unwrap_or(0) as f64);
        let now = format!(" {}", units::bytes_per_second(rate));
        frame.render_widget(Line::from(vec![name.dim(), now.bold(), format!("  most {most}").dim()]), title);
        // The newest is at the right edge, where the eye expects it.
        let width = u16::try_from(shown).unwrap_or(graph.width);
        let graph = Rect { x: graph.x + graph.width - width, width, ..graph };
        frame.render_widget(Sparkline::default().data(&recent).style(colour), graph);
    }
}

fn draw_shards(frame: &mut Frame<'_>, area: Rect, status: &Status) {
    let rows = status.shards.iter().map(|shard| {
        Row::new([
            Cell::from(shard.id.to_string()),
            Cell::from(shard.cpu.map_or("-".into(), |cpu| cpu.to_string())),
            Cell::from(bar(shard.busy_share)),
            number(shard.active.to_string()),
            number(units::rate(shard.accepted_per_second)),
            number(units::bytes_per_second(shard.flow.bytes_up_per_second)),
            number(units::bytes_per_second(shard.flow.bytes_down_per_second)),
            number(format!("{}/{}", shard.buffers.total.saturating_sub(shard.buffers.free), shard.buffers.total)),
        ])
    });
    let widths = [5, 3, 15, 7, 8, 10, 10, 9].map(Constraint::Length);
    let headings = ["shard", "cpu", "busy", "active", "new", "up", "down", "buffers"];
    frame.render_widget(Table::new(rows, widths).header(heading(&headings, 3)).column_spacing(1), area);
}

fn draw_backends(frame: &mut Frame<'_>, area: Rect, status: &Status, scroll: usize) {
    let rows = backends(status).skip(scroll).map(|(upstream, backend)| {
        let state = match backend.state.as_str() {
            "up" => backend.state.clone().green(),
            "down" => backend.state.clone().red().bold(),
            _ => backend.state.clone().yellow(),
        };
        Row::new([
            Cell::from(upstream.to_owned()),
            Cell::from(backend.address.clone()),
            Cell::from(state),
            number(in_use(&backend.connections)),
            number(units::rate(backend.connects_per_second)),
            number(units::count(backend.connect_failures)),
            number(units::bytes_per_second(backend.flow.bytes_up_per_second)),
            number(units::bytes_per_second(backend.flow.bytes_down_per_second)),
        ])
    });
    let widths = [
        Constraint::Length(10),
        Constraint::Min(15),
        Constraint::Length(7),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(5),
        Constraint::Length(10),
        Constraint::Length(10),
    ];
    let headings = ["upstream", "backend", "state", "conns", "new", "fails", "up", "down"];
    frame.render_widget(Table::new(rows, widths).header(heading(&headings, 3)).column_spacing(1), area);
}

fn draw_latency(frame: &mut Frame<'_>, area: Rect, status: &Status) {
    let rows = ["connect", "first_byte", "session"].into_iter().filter_map(|stage| {
        let latency = status.latency.get(stage)?;
        let value = |us: u64| number(if latency.count == 0 { "-".into() } else { units::micros(us) });
        Some(Row::new([
            Cell::from(stage),
            number(units::count(latency.count)),
            value(latency.p50),
            value(latency.p90),
            value(latency.p99),
            value(latency.max),
        ]))
    });
    let widths = [10, 8, 9, 9, 9, 9].map(Constraint::Length);
    let headings = ["latency", "count", "p50", "p90", "p99", "max"];
    frame.render_widget(Table::new(rows, widths).header(heading(&headings, 1)).column_spacing(1), area);
}

fn draw_footer(frame: &mut Frame<'_>, area: Rect, choices: &Choices) {
    let line = match &choices.trouble {
        Some(trouble) => Line::from(trouble.clone().red()),
        None => {
            let paused = if choices.paused { "PAUSED  " } else { "" };
            let interval = choices.interval.as_secs_f64();
            let keys = format!("every {interval:.1} s   q quit  p pause  +/- faster/slower  arrows scroll backends");
            Line::from(vec![paused.yellow().bold(), keys.dim()])
        }
    };
    frame.render_widget(line, area);
}

/// Every backend with its upstream's name.
pub(super) fn backends(status: &Status) -> impl Iterator<Item = (&str, &crate::control::admin::status::Backend)> {
    status
        .upstreams
        .iter()
        .flat_map(|upstream| upstream.backends.iter().map(|backend| (upstream.name.as_str(), backend)))
}

/// `###....... 32%`, in a colour that says whether it matters.
fn bar(share: f64) -> Line<'static> {
    let share = share.clamp(0.0, 1.0);
    let full = (share * BAR as f64).round() as usize;
    let colour = match share {
        0.9.. => Color::Red,
        0.7.. => Color::Yellow,
        _ => Color::Green,
    };
    Line::from(vec![
        Span::styled("█".repeat(full), colour),
        Span::styled("░".repeat(BAR - full), Style::new().add_modifier(Modifier::DIM)),
        Span::raw(format!("{:>5}", units::percent(share))),
    ])
}

fn number(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}

/// From the column `numbers` on, names stand to the right as the numbers below them.
fn heading(names: &[&'static str], numbers: usize) -> Row<'static> {
    let cell = |(column, name): (usize, &&'static str)| {
        let line = Line::from(*name);
        Cell::from(if column < numbers { line } else { line.right_aligned() })
    };
    Row::new(names.iter().enumerate().map(cell)).style(Style::new().add_modifier(Modifier::DIM | Modifier::UNDERLINED))
}
