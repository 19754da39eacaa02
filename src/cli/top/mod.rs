//! `arus top`: a live view over the control socket. This file is the loop and the keys; `sample` keeps
//! readings, `screen` draws them.

mod sample;
mod screen;
#[cfg(test)]
pub(super) mod tests;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::client::{Client, Json};
use super::socket::SocketArgs;
use sample::Samples;
use screen::Choices;

/// Watch throughput, who is waited for, whose failures there are, shards, backends and latency live
///
/// Keys: q, Esc or Ctrl-C quit; p or space pause; + and - ask more or less often; arrow keys, PgUp, PgDn and Home
/// scroll the backends.
#[derive(Debug, clap::Args)]
pub(super) struct TopArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Time between readings, 100ms to 1m
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Print one frame as text, and end; needs no terminal
    #[arg(long)]
    once: bool,
    /// Print one reading as JSON, and end: `status` and `verdicts`, as the API answers
    #[arg(long)]
    json: bool,
}

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
/// An arus that takes longer to answer is in trouble, and the screen says so.
const PATIENCE: Duration = Duration::from_secs(3);

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (SHORTEST..=LONGEST).contains(&interval) { Ok(interval) } else { Err("must be 100ms to 1m".into()) }
}

pub(super) fn run(args: &TopArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.socket)?.with_timeout(PATIENCE);
    let mut samples = Samples::default();
    if args.json {
        let reading = Json(serde_json::json!({
            "status": client.get_json("/api/v1/status")?,
            "verdicts": client.get_json(VERDICTS)?,
        }));
        return Ok(writeln!(std::io::stdout(), "{reading}")?);
    }
    // The first reading is a plain question: no screen for an arus that is not there.
    samples.take(read(&client)?);
    samples.verdicts = client.get(VERDICTS).ok();
    if args.once {
        let width = ratatui::crossterm::terminal::size().map_or(80, |(width, _)| width.max(80));
        let choices = Choices { interval: args.interval, ..Choices::default() };
        return Ok(std::io::stdout().write_all(frame_text(&samples, &choices, width)?.as_bytes())?);
    }
    let stop = stop_on_signals()?;
    // From here to `restore` the terminal is ours; ratatui's panic hook gives it back as well.
    let mut terminal = ratatui::try_init().context("top needs a terminal; `arus top --once` does not")?;
    let outcome = watch(&mut terminal, &client, &mut samples, args.interval, &stop);
    ratatui::restore();
    outcome
}

fn read(client: &Client) -> anyhow::Result<crate::control::admin::status::Status> {
    client.get("/api/v1/status")
}

const VERDICTS: &str = "/api/v1/sessions/verdicts";
/// They are asked for so often at most: each is two looks at up to 200 sessions.
const VERDICT_PAUSE: Duration = Duration::from_secs(5);

/// SIGTERM and SIGHUP end the loop, so that the terminal is given back.
fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [libc::SIGTERM, libc::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    client: &Client,
    samples: &mut Samples,
    interval: Duration,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let mut choices = Choices { interval, ..Choices::default() };
    let mut next = Instant::now() + choices.interval;
    let mut judged = Instant::now();
    loop {
        terminal.draw(|frame| screen::draw(frame, samples, &choices))?;
        // At most a second at a time, for a signal does not always wake poll.
        let wait = next.saturating_duration_since(Instant::now()).min(Duration::from_secs(1));
        if event::poll(wait)?
            && let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && !press(key, &mut choices, samples)
        {
            return Ok(());
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        if Instant::now() >= next {
            if !choices.paused {
                choices.trouble = match read(client) {
                    Ok(status) => {
                        samples.take(status);
                        if judged.elapsed() >= VERDICT_PAUSE {
                            samples.verdicts = client.get(VERDICTS).ok();
                            judged = Instant::now();
                        }
                        None
                    }
                    Err(error) => Some(format!("{error:#}")),
                };
            }
            next = Instant::now() + choices.interval;
        }
    }
}

/// Returns false for a key that quits.
fn press(key: KeyEvent, choices: &mut Choices, samples: &Samples) -> bool {
    let last = samples.status.as_ref().map_or(0, |status| screen::backends(status).count().saturating_sub(1));
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Char('p' | ' ') => choices.paused = !choices.paused,
        KeyCode::Char('+' | '=') => choices.interval = (choices.interval / 2).max(SHORTEST),
        KeyCode::Char('-') => choices.interval = (choices.interval * 2).min(LONGEST),
        KeyCode::Down | KeyCode::Char('j') => choices.scroll = (choices.scroll + 1).min(last),
        KeyCode::Up | KeyCode::Char('k') => choices.scroll = choices.scroll.saturating_sub(1),
        KeyCode::PageDown => choices.scroll = (choices.scroll + 10).min(last),
        KeyCode::PageUp => choices.scroll = choices.scroll.saturating_sub(10),
        KeyCode::Home => choices.scroll = 0,
        _ => {}
    }
    true
}

/// A frame as lines of text, high enough for everything.
fn frame_text(samples: &Samples, choices: &Choices, width: u16) -> anyhow::Result<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, screen::full_height(samples)))?;
    terminal.draw(|frame| screen::draw(frame, samples, choices))?;
    Ok(text_of(terminal.backend().buffer()))
}

fn text_of(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in 0..buffer.area.height {
        let line: String = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
