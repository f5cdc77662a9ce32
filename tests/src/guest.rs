//! Guests: whole virtual machines on an emulated processor, two on one wire, each commanded over a serial port.
//!
//! They are real where the hollow nodes are not: a kernel of their own, its drivers, its netlink messages. What they boot is
//! made by `tests/roce/build.sh`.

mod cpio;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::Mutex,
    time::timeout,
};

use crate::{Cluster, LIMIT, Process, binary, until};

/// This machine's loopback, as a guest sees it.
pub const HOST: &str = "10.0.2.2";

/// Emulated booting takes seven seconds where nothing else runs.
const BOOT: Duration = Duration::from_mins(2);

/// What guests boot.
#[derive(Debug, Clone)]
pub struct Image {
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl Image {
    /// The base image, and `program` in it as `/usr/bin/…`. The result is written into `folder`.
    pub async fn with(program: &Path, folder: &Path) -> Result<Self> {
        let base = binary::guest_image().await?;
        let initramfs = folder.join("initramfs.cpio");
        fs::copy(base.join("initramfs.cpio"), &initramfs).context("copy the base image")?;
        let name = program.file_name().context("a program without a name")?.display();
        cpio::append(&initramfs, &format!("usr/bin/{name}"), program).context("add to the image")?;
        Ok(Self { kernel: base.join("vmlinuz"), initramfs })
    }
}

/// The two ends of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// One.
    A,
    /// And the other.
    B,
}

impl End {
    const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// A running guest. `eth0` is on the wire and down, `eth1` leads to [`HOST`]. It ends as every [`Process`] does.
#[derive(Debug)]
pub struct Guest {
    /// The emulator; its log is the guest's console.
    pub process: Process,
    commands: Mutex<Commands>,
    monitor: PathBuf,
}

/// The serial port that its shell listens on.
#[derive(Debug)]
struct Commands {
    port: BufReader<UnixStream>,
    asked: u32,
}

impl Cluster {
    /// Switches a guest on. It boots on its own; [`Guest::booted`] waits for it.
    pub async fn switch_on(&self, name: &str, end: End, image: &Image) -> Result<Guest> {
        self.switch_on_with(name, end, image, None).await
    }

    /// The same with a port of this machine's loopback that leads to a port of the guest's: to the other guest it is at [`HOST`].
    pub async fn switch_on_with(
        &self,
        name: &str,
        end: End,
        image: &Image,
        forwarded: Option<(u16, u16)>,
    ) -> Result<Guest> {
        let socket = |what: &str| self.path().join(format!("{what}.sock"));
        let (commands, monitor) = (socket(&format!("{name}-commands")), socket(&format!("{name}-monitor")));
        let (own, other) = (socket(&format!("wire-{}", end.name())), socket(&format!("wire-{}", end.other().name())));
        let (kernel, initramfs) = (image.kernel.display(), image.initramfs.display());
        let forward =
            forwarded.map(|(here, there)| format!(",hostfwd=tcp:127.0.0.1:{here}-:{there}")).unwrap_or_default();
        let args = [
            // Never KVM, even where it is: the test shall be the same everywhere, and nested KVM is known to hang.
            ["-accel", "tcg"].map(String::from).to_vec(),
            ["-cpu", "max", "-m", "1024", "-nodefaults", "-display", "none", "-no-reboot"].map(String::from).to_vec(),
            vec!["-kernel".into(), kernel.to_string(), "-initrd".into(), initramfs.to_string()],
            // A panic ends the emulator, so that the test sees it at once.
            vec!["-append".into(), "console=ttyS0 quiet panic=-1".into()],
            vec!["-serial".into(), "stdio".into()],
            vec!["-chardev".into(), format!("socket,id=commands,path={},server=on,wait=off", commands.display())],
            vec!["-serial".into(), "chardev:commands".into()],
            vec!["-qmp".into(), format!("unix:{},server=on,wait=off", monitor.display())],
            // Datagrams, so that it does not matter which end is there first: what is sent to nobody is lost, as on a wire.
            vec![
                "-netdev".into(),
                format!(
                    "dgram,id=wire,local.type=unix,local.path={},remote.type=unix,remote.path={}",
                    own.display(),
                    other.display()
                ),
            ],
            vec![
                "-device".into(),
                format!("virtio-net-pci,id=eth0,netdev=wire,romfile=,mac=52:54:00:00:00:0{}", end.name()),
            ],
            // Without IPv6: router advertisements would make netlink messages of their own.
            vec!["-netdev".into(), format!("user,id=host,ipv6=off{forward}")],
            vec!["-device".into(), "virtio-net-pci,id=eth1,netdev=host,romfile=".into()],
        ];
        let process = self.spawn(name, "qemu-system-x86_64", args.concat(), &[])?;
        // At once: what the guest says while nobody listens is lost.
        let stream = until(format_args!("the emulator of {name}"), LIMIT, || async {
            Ok(UnixStream::connect(&commands).await?)
        })
        .await
        .with_context(|| format!("{name} says:\n{}", process.tail(15)))?;
        let commands = Mutex::new(Commands { port: BufReader::new(stream), asked: 0 });
        Ok(Guest { process, commands, monitor })
    }
}

impl Cluster {
    /// Cuts the wire between the two ends, or mends it. Neither end notices: both ports stay up, as where a switch loses a path.
    pub fn cut(&self, cut: bool) -> Result<()> {
        for end in [End::A, End::B] {
            let whole = self.path().join(format!("wire-{}.sock", end.name()));
            let apart = whole.with_extension("cut");
            let (from, to) = if cut { (&whole, &apart) } else { (&apart, &whole) };
            fs::rename(from, to).with_context(|| format!("rename {}", from.display()))?;
        }
        Ok(())
    }
}

impl Guest {
    /// Waits until it takes commands.
    pub async fn booted(&self) -> Result<()> {
        let mut commands = self.commands.lock().await;
        let ready = commands.until_line(BOOT, |line| line == "@ready").await;
        ready.map(drop).with_context(|| self.waited_for("to boot"))
    }

    /// Runs a script of its shell, in a subshell with an empty standard input, and returns what it wrote, errors too.
    /// Fails if the script does.
    pub async fn run(&self, script: &str) -> Result<String> {
        let mut commands = self.commands.lock().await;
        let answer = commands.run(script).await;
        let (status, output) = answer.with_context(|| self.waited_for(script))?;
        ensure!(status == "0", "{}: `{script}` failed ({status}):\n{output}", self.process.name());
        Ok(output)
    }

    fn waited_for(&self, what: &str) -> String {
        format!("waiting for {}: {what}\n{}", self.process.name(), self.console(30))
    }

    /// The end of its console, where its agent logs.
    pub fn console(&self, lines: usize) -> String {
        format!("── console of {} ──\n{}", self.process.name(), self.process.tail(lines))
    }

    /// Writes a file.
    pub async fn write(&self, path: &str, text: &str) -> Result<()> {
        self.run(&format!("cat > {path} <<'@end'\n{text}\n@end")).await?;
        Ok(())
    }

    /// Pulls the wire out of `eth0`, or plugs it in again.
    pub async fn plug(&self, plugged: bool) -> Result<()> {
        let command = json!({"execute": "set_link", "arguments": {"name": "eth0", "up": plugged}});
        let asked = timeout(LIMIT, self.monitor(&command)).await.context("no answer").flatten();
        asked.with_context(|| format!("the monitor of {}", self.process.name()))
    }

    async fn monitor(&self, command: &Value) -> Result<()> {
        let mut stream = BufReader::new(UnixStream::connect(&self.monitor).await?);
        for command in [&json!({"execute": "qmp_capabilities"}), command] {
            stream.write_all(format!("{command}\n").as_bytes()).await?;
            loop {
                let mut line = String::new();
                ensure!(stream.read_line(&mut line).await? > 0, "it hung up");
                let answer: Value = serde_json::from_str(&line)?;
                if let Some(error) = answer.get("error") {
                    bail!("{command}: {error}");
                }
                // The greeting and events come in between.
                if answer.get("return").is_some() {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Commands {
    /// The script's exit status and output.
    async fn run(&mut self, script: &str) -> Result<(String, String)> {
        self.asked += 1;
        let marker = format!("@done {} ", self.asked);
        let text = format!("(\n{script}\n) < /dev/null; printf '\\n{marker}%s\\n' $?\n");
        self.port.get_mut().write_all(text.as_bytes()).await?;
        let lines = self.until_line(LIMIT, |line| line.starts_with(&marker)).await?;
        let (last, lines) = lines.split_last().context("no answer")?;
        Ok((last.trim_start_matches(&marker).to_owned(), lines.join("\n").trim_end().to_owned()))
    }

    /// Reads lines up to and with the one that `last` knows.
    async fn until_line(&mut self, limit: Duration, last: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let mut lines: Vec<String> = Vec::new();
        let read = timeout(limit, async {
            loop {
                let mut line = Vec::new();
                ensure!(self.port.read_until(b'\n', &mut line).await? > 0, "the guest is gone");
                lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                if lines.last().is_some_and(|line| last(line)) {
                    return Ok(());
                }
            }
        })
        .await;
        let read = read.with_context(|| format!("not done after {} s", limit.as_secs())).flatten();
        read.with_context(|| format!("it said:\n{}", lines.join("\n")))?;
        Ok(lines)
    }
}
