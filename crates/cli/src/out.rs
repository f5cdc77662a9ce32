//! Printing: colours on terminals only, control characters of others nowhere.

use std::io::{self, Write as _};

use anstyle::{AnsiColor, Color, Style};
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::{
    args::Output,
    exit::{Ended, Exit, Result},
};

/// Good.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Worth acting on.
pub const WARN: Style = AnsiColor::Yellow.on_default();
/// Broken.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Less important.
pub const DIM: Style = Style::new().dimmed();
/// A headline.
pub const HEAD: Style = Style::new().bold();

/// A text in a style.
pub fn paint(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// A style with this background of the 256, and a foreground that is readable on it.
pub fn on(background: u8, dark: bool) -> Style {
    let foreground = if dark { AnsiColor::BrightWhite } else { AnsiColor::Black };
    Style::new().bg_color(Some(Color::Ansi256(background.into()))).fg_color(Some(Color::Ansi(foreground)))
}

/// Prints to standard output; a reader that went away is no error.
pub fn print(text: &str) -> Result<()> {
    written(anstream::stdout().write_all(text.as_bytes()).and_then(|()| anstream::stdout().flush()))
}

/// Prints progress, warnings and errors to standard error.
pub fn say(text: &str) {
    // Nobody is left to tell.
    drop(writeln!(anstream::stderr(), "{text}"));
}

/// Prints an error.
pub fn error(text: &str) {
    say(&format!("{} {}", paint(BAD, "error:"), clean(text)));
}

fn written(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Ended::new(Exit::Failed, format!("writing to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints a value for programs, or a text for people.
pub fn answer(output: Output, value: &impl Serialize, people: impl FnOnce() -> String) -> Result<()> {
    let failed = |error: String| Ended::new(Exit::Failed, format!("making the answer: {error}"));
    match output {
        Output::Text => print(&people()),
        Output::Json => {
            let text = serde_json::to_string_pretty(value).map_err(|error| failed(error.to_string()))?;
            print(&(text + "\n"))
        }
        Output::Yaml => {
            // By way of JSON, so that both say the same.
            let value = serde_json::to_value(value).map_err(|error| failed(error.to_string()))?;
            print(&serde_saphyr::to_string(&value).map_err(|error| failed(error.to_string()))?)
        }
    }
}

/// What others wrote, without what would move a terminal's cursor.
pub fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

/// A table as kubectl prints them.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.iter().map(|word| (*word).to_owned()));
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    for row in rows {
        table.add_row(row.into_iter().map(|cell| clean(&cell)).collect::<Vec<_>>());
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    let mut text = String::new();
    for line in table.lines() {
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Writes a file.
pub fn file(path: &std::path::Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| Ended::usage(format!("writing {}: {error}", path.display())))
}
