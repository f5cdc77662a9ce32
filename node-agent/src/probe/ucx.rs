//! Asking UCX, step by step, and understanding its log.

use std::{io, mem, path::PathBuf};

use policies::{
    fabric::Fact,
    probe::{UcxDomain, UcxFacts, UcxLibrary, UcxSetting, UcxTransport, UcxUnknownVariable},
};
use ucx_sys::{Context, DeviceType, Domain, Library, search, text};

use super::inside::Report;

/// What the probe sets for its child: UCX is to say what it does not know.
pub(super) const OURS: Variables = variables("y");

/// Variables of UCX that are ours in a child.
pub(crate) type Variables = [(&'static str, &'static str); 5];

/// UCX's words where we read them, with those about variables that it does not know or without, and no signal handlers. UCX reads
/// these in a constructor, so they must be there before it is loaded.
pub(crate) const fn variables(warn_of_unknown: &'static str) -> Variables {
    [
        ("UCX_LOG_FILE", "stderr"),
        ("UCX_LOG_LEVEL", "warn"),
        // Its default, and enforced: with a larger one, UCX 1.13.1 overflows its stack when it warns of an absent device.
        ("UCX_LOG_BUFFER", "1k"),
        ("UCX_WARN_UNUSED_ENV_VARS", warn_of_unknown),
        ("UCX_HANDLE_ERRORS", "none"),
    ]
}

/// Asks everything, in the child. The report is sent before each step that enters UCX.
pub(super) fn ask(folders: &[PathBuf], report: &mut Report) -> io::Result<()> {
    let folders = if folders.is_empty() { search::usual_folders() } else { folders.to_vec() };
    let searched = folders.iter().map(|folder| folder.display().to_string()).collect();
    let mut facts = UcxFacts { searched, ..UcxFacts::default() };
    report.before("searching for it", &facts)?;
    let Some(files) = search::find(&folders) else {
        facts.library = Fact::Known(None);
        return report.done(&facts);
    };

    report.before(&format!("loading {}", files.ucp.display()), &facts)?;
    let library = match Library::load(&files) {
        Ok(library) => library,
        Err(error) => {
            facts.library = Fact::Unknown(error.to_string());
            return report.done(&facts);
        }
    };
    let folder = files.ucp.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
    let mut about = UcxLibrary { version: library.version().to_string(), folder, files: mapped() };
    facts.missing = library.missing().into_iter().map(Into::into).collect();
    facts.library = Fact::Known(Some(about.clone()));

    report.before("making a context (ucp_init)", &facts)?;
    match Context::new(&library, &[]) {
        Ok(context) => {
            facts.memory_types = fact(context.memory_types().map(ucx_sys::MemoryTypes::names));
            facts.in_use = fact(context.info().map(|info| text::resources(&info)));
            // Its cleanup is skipped: the process is about to end, and some libraries do not survive it.
            mem::forget(context);
        }
        Err(error) => {
            facts.memory_types = Fact::Unknown(error.to_string());
            facts.in_use = Fact::Unknown(error.to_string());
        }
    }
    // Modules are loaded by now.
    about.files = mapped();
    facts.library = Fact::Known(Some(about));

    report.before("opening its devices (uct_query_components)", &facts)?;
    facts.domains = fact(library.components().map(|components| components.iter().flat_map(domains).collect()));

    report.before("reading its settings", &facts)?;
    facts.settings = fact(library.settings().map(|settings| settings.into_iter().filter_map(setting).collect()));
    if let Err(error) = library.log_unused_variables() {
        facts.unknown_variables = Fact::Unknown(error.to_string());
    } else {
        // The list itself comes by the log.
        facts.unknown_variables = Fact::Known(Vec::new());
    }
    report.done(&facts)
}

/// Takes what UCX said in its log into the facts, in the parent: a child that died said it too. `is_set` tells whether a variable is
/// in the environment: UCX cuts long messages off, and half a name is none.
pub(super) fn add_log(facts: &mut UcxFacts, log: &str, is_set: impl Fn(&str) -> bool) {
    for message in text::messages(log) {
        if let Some(unused) = text::unused(&message) {
            let set = unused.into_iter().filter(|unused| is_set(&unused.name));
            let known = set.map(|unused| UcxUnknownVariable { name: unused.name, meant: unused.meant });
            match &mut facts.unknown_variables {
                Fact::Known(variables) => variables.extend(known),
                unknown @ Fact::Unknown(_) => *unknown = Fact::Known(known.collect()),
            }
        } else if !message.text.starts_with("(set UCX_WARN_UNUSED_ENV_VARS") {
            let line = format!("{} {}", message.level, message.text);
            if !facts.messages.contains(&line) {
                facts.messages.push(line);
            }
        }
    }
}

fn fact<T>(result: Result<T, ucx_sys::Error>) -> Fact<T> {
    result.map_or_else(|error| Fact::Unknown(error.to_string()), Fact::Known)
}

fn mapped() -> Vec<String> {
    ucx_sys::mapped().unwrap_or_default().iter().map(|file| file.display().to_string()).collect()
}

/// A changed setting, unless it is the probe that changed it.
fn setting(setting: ucx_sys::Setting) -> Option<UcxSetting> {
    let ours = OURS.iter().any(|(name, _)| *name == setting.name);
    (!ours).then_some(UcxSetting { name: setting.name, value: setting.value, default: setting.default })
}

fn domains(component: &ucx_sys::Component) -> Vec<UcxDomain> {
    let name = &component.name;
    match &component.domains {
        Ok(domains) => domains.iter().map(|domain| describe(name, domain)).collect(),
        Err(error) => {
            vec![UcxDomain { component: name.clone(), error: Some(error.clone()), ..UcxDomain::default() }]
        }
    }
}

fn describe(component: &str, domain: &Domain) -> UcxDomain {
    let transports = domain.transports.iter().map(|transport| UcxTransport {
        name: transport.name.clone(),
        device: transport.device.clone(),
        kind: match transport.kind {
            DeviceType::Net => "network".into(),
            DeviceType::Shm => "shared-memory".into(),
            DeviceType::Acc => "accelerator".into(),
            DeviceType::Own => "self".into(),
            DeviceType::Other(number) => format!("type-{number}"),
        },
    });
    UcxDomain {
        component: component.into(),
        name: domain.name.clone(),
        registers: domain.registers.names(),
        accesses: domain.accesses.names(),
        allocates: domain.allocates.names(),
        detects: domain.detects.names(),
        transports: transports.collect(),
        error: domain.error.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_gives_variables_and_messages() {
        let log = "[1.1] [n:1:0] parser.c:1 UCX  WARN  unused environment variables: UCX_TLZ (maybe: UCX_TLS?); UCX_TRUNC\n\
                   [1.1] [n:1:0] parser.c:1 UCX  WARN  (set UCX_WARN_UNUSED_ENV_VARS=n to suppress this warning)\n\
                   [1.1] [n:1:0] a.c:1 UCX  ERROR no usable transports/devices\n\
                   [1.2] [n:1:0] a.c:1 UCX  ERROR no usable transports/devices\n";
        let mut facts = UcxFacts::default();
        add_log(&mut facts, log, |name| name != "UCX_TRUNC");
        let expected = UcxUnknownVariable { name: "UCX_TLZ".into(), meant: Some("UCX_TLS".into()) };
        assert_eq!(facts.unknown_variables, Fact::Known(vec![expected]));
        assert_eq!(facts.messages, ["ERROR no usable transports/devices"]);
    }
}
