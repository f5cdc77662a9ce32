//! Completion of `kubectl railbind …` by kubectl itself: it calls `kubectl_complete-railbind`, a link to this binary, and takes the
//! words that it prints (kubectl plugin documentation; the form is cobra's: a word, a tab, what it is; then a directive).

use clap::{Arg, Command, CommandFactory as _};

use crate::args::Args;

/// Name under which kubectl calls.
pub const NAME: &str = "kubectl_complete-railbind";
/// "These are all, complete no file names" (cobra: ShellCompDirectiveNoFileComp).
const NO_FILES: &str = ":4\n";
/// "Nothing from here: complete file names" (cobra: ShellCompDirectiveDefault).
const FILES: &str = ":0\n";

/// What could come in the place of the last word.
pub fn answer(words: &[String]) -> String {
    let root = Args::command();
    let (last, before) = words.split_last().map_or(("", words), |(last, before)| (last.as_str(), before));
    let mut command = &root;
    let mut taken = 0;
    let mut value_of: Option<&Arg> = None;
    for word in before {
        if value_of.take().is_some() {
            continue;
        }
        if let Some(flag) = word.strip_prefix('-') {
            let flag = flag.trim_start_matches('-');
            let found = all(&root, command).find(|arg| is(arg, flag));
            value_of = found.filter(|arg| arg.get_action().takes_values());
        } else if let Some(sub) = command.get_subcommands().find(|sub| sub.get_name() == word) {
            (command, taken) = (sub, 0);
        } else {
            taken += 1;
        }
    }
    let place = value_of.or_else(|| command.get_positionals().nth(taken)).filter(|_| !last.starts_with('-'));
    let mut lines: Vec<(String, String)> = Vec::new();
    if let Some(arg) = place {
        let values = arg.get_possible_values();
        if values.is_empty() && value_of.is_some() {
            return FILES.into();
        }
        lines.extend(values.iter().map(|value| (value.get_name().into(), help(value.get_help()))));
    } else if last.starts_with('-') {
        let flags = all(&root, command).filter(|arg| !arg.is_hide_set());
        lines.extend(flags.filter_map(|arg| Some((format!("--{}", arg.get_long()?), help(arg.get_help())))));
    } else {
        let subs = command.get_subcommands();
        lines.extend(subs.map(|sub| (sub.get_name().into(), help(sub.get_about()))));
    }
    let mut text = String::new();
    for (word, what) in lines.iter().filter(|(word, _)| word.starts_with(last)) {
        text += word;
        text.push('\t');
        text += what;
        text.push('\n');
    }
    text + NO_FILES
}

/// The command's own flags, and those that every command has.
fn all<'a>(root: &'a Command, command: &'a Command) -> impl Iterator<Item = &'a Arg> {
    let own = command.get_arguments().filter(|arg| !arg.is_positional());
    let global = root.get_arguments().filter(|arg| arg.is_global_set());
    own.chain(global)
}

fn is(arg: &Arg, flag: &str) -> bool {
    arg.get_long() == Some(flag) || arg.get_short().is_some_and(|short| flag.chars().eq([short]))
}

fn help(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[test]
    fn words() {
        let of = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let text = answer(&words);
            let words = text.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned());
            words.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of("st"), "status :4");
        assert_eq!(of("doctor "), "node pod deployment :4");
        assert_eq!(of("doctor --no"), "--no-logs --notes :4");
        assert_eq!(of("status -o "), "text json yaml :4");
        assert_eq!(of("status -o j"), "json :4");
        assert_eq!(of("--context x status --ou"), "--output :4");
        assert_eq!(of("explain -f "), ":0");
        assert_eq!(of("completion z"), "zsh :4");
        assert!(of("").starts_with("status doctor explain matrix"), "{}", of(""));
        assert!(of("advise --k").contains("--kubeconfig"));
    }
}
