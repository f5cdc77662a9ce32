//! The image files, as far as they can be checked where no container engine is: what they copy is there and is enough for
//! cargo, their bases have what the binaries ask for, and one version is written everywhere.

use std::{collections::BTreeSet, fs, process::Command};

use harness::railbind::{binary, repository};

use crate::render::kustomize;

fn lines(image: &str) -> Vec<String> {
    let text = fs::read_to_string(repository().join(format!("images/{image}.Containerfile"))).unwrap();
    let text = text.replace("\\\n", " ");
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn what_is_copied_is_enough_for_cargo() {
    for image in ["agent", "webhook"] {
        let folder = tempfile::tempdir().unwrap();
        for line in lines(image).iter().filter(|line| line.starts_with("COPY ") && !line.contains("--from")) {
            let words: Vec<&str> = line.split_whitespace().skip(1).collect();
            let (to, from) = words.split_last().unwrap();
            for source in from {
                let path = repository().join(source);
                assert!(path.exists(), "{image}: {source} is not there");
                let to = folder.path().join(to);
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                assert!(Command::new("cp").arg("-r").arg(path).arg(to).status().unwrap().success());
            }
        }
        let mut metadata = Command::new("cargo");
        // Without it, crates of other platforms are wanted too, which a build here never downloaded.
        let here = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        metadata.args(["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", &here]);
        metadata.arg("--manifest-path");
        let output = metadata.arg(folder.path().join("Cargo.toml")).output().unwrap();
        assert!(output.status.success(), "{image}: {}", String::from_utf8_lossy(&output.stderr));
        let build = format!("RUN cargo auditable build --release --locked -p railbind-{image}");
        assert!(lines(image).contains(&build), "{image}");
    }
}

#[test]
fn the_bases_have_what_the_binaries_are_linked_to() {
    let bases = BTreeSet::from(["linux-vdso.so.1", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "ld-linux-x86-64.so.2"]);
    for name in ["railbind-agent", "railbind-webhook"] {
        let output = Command::new("ldd").arg(binary(name).unwrap()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let linked: BTreeSet<&str> =
            text.lines().filter_map(|line| line.split_whitespace().next()?.rsplit('/').next()).collect();
        assert!(linked.contains("libc.so.6"), "{name}: {text}");
        let more: Vec<_> = linked.difference(&bases).collect();
        assert!(more.is_empty(), "{name} is linked to {more:?}, which a distroless base does not have");
    }
}

#[tokio::test]
async fn images_say_what_they_are_and_run_as_the_manifests_say() {
    let cargo = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let version = cargo.lines().find_map(|line| line.strip_prefix("version = ")).unwrap().trim_matches('"').to_owned();
    let chart = fs::read_to_string(repository().join("charts/railbind/Chart.yaml")).unwrap();
    assert!(chart.contains(&format!("\nappVersion: {version}\n")), "{chart}");
    let objects = kustomize("base").await.unwrap();
    for (image, workload) in [("agent", "DaemonSet/railbind-agent"), ("webhook", "Deployment/railbind-webhook")] {
        let lines = lines(image);
        let has = |line: &str| assert!(lines.iter().any(|found| found.starts_with(line)), "{image}: no {line}");
        has(&format!("ARG VERSION={version}"));
        has(&format!("ENTRYPOINT [\"/usr/bin/railbind-{image}\"]"));
        for base in lines.iter().filter(|line| line.starts_with("ARG B")) {
            assert!(base.contains(':') && !base.ends_with(":latest"), "{image}: {base}");
        }
        for label in ["title", "description", "licenses", "version"] {
            assert!(lines.iter().any(|line| line.contains(&format!("org.opencontainers.image.{label}="))), "{label}");
        }
        let container = &objects[workload]["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"], format!("railbind-{image}:{version}"));
        has(&format!("USER {0}:{0}", container["securityContext"]["runAsUser"]));
        let toolchain = fs::read_to_string(repository().join("rust-toolchain.toml")).unwrap();
        let channel = toolchain.split('"').nth(1).unwrap();
        has(&format!("ENV RUSTUP_TOOLCHAIN={channel}"));
        has(&format!("ARG BUILD=rust:{channel}-"));
    }
}
