//! A small machine with a real cgroup v2: Debian's cloud kernel under qemu without hardware help, which boots in some two seconds, and a root
//! file system in memory that holds busybox, the static firstmate, its helpers, and whatever a test adds.
//!
//! A boot runs one script, after what `init.sh` prepares and with the functions it offers. What the script prints comes back in sections,
//! each begun by a line `### NAME`; a boot carries many scenarios. Everything has a deadline, and the machine ends with its test.
//! Emulated, it is some ten times slower than the machine below: what comes first can be judged here, and how fast cannot.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Where `tests/setup vm` puts the kernel.
const KERNEL: &str = "/var/cache/firstmate/vmlinuz-cloud";

/// What begins a section.
const HEADING: &str = "### ";

/// The kernel's root file system before it is unpacked: the "newc" format of cpio(5).
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    directories: Vec<PathBuf>,
}

impl Archive {
    /// The type is part of the mode, see inode(7).
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        let size = u32::try_from(content.len()).unwrap();
        let name_size = u32::try_from(name.len() + 1).unwrap();
        let mut header = "070701".to_owned();
        for field in [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
            write!(header, "{field:08X}").unwrap();
        }
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn directory(&mut self, path: &Path) {
        if path == Path::new("/") || self.directories.iter().any(|known| known == path) {
            return;
        }
        self.directory(path.parent().unwrap());
        self.entry(path.strip_prefix("/").unwrap().to_str().unwrap(), 0o040_755, b"");
        self.directories.push(path.to_owned());
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.directory(Path::new(path).parent().unwrap());
        self.entry(path.trim_start_matches('/'), 0o100_000 | mode, content);
    }

    fn finished(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, b"");
        self.bytes
    }
}

/// A machine that is yet to be booted.
#[derive(Debug)]
pub struct Machine {
    archive: Archive,
    memory_mib: u32,
    cpus: u32,
    arguments: String,
    patience: Duration,
    init: Init,
}

/// Who ends the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Init {
    /// `init.sh`, once the script is through.
    Script,
    /// The program that the script has become by `exec`: the kernel panics when it ends.
    Program,
}

impl Machine {
    /// 512 MiB and two CPUs, with `busybox`, `firstmate`, `actor`, `leaker` and `inside` in /bin.
    pub fn new() -> Self {
        let machine = Self {
            archive: Archive::default(),
            memory_mib: 512,
            cpus: 2,
            arguments: String::new(),
            patience: Duration::from_secs(240),
            init: Init::Script,
        };
        let machine = machine
            .text("/init", include_str!("init.sh"))
            .program("/bin/busybox", Path::new("/bin/busybox"))
            .program("/bin/firstmate", &firstmate())
            .program("/bin/actor", &helper("actor", "examples/actor.rs"))
            .program("/bin/leaker", &helper("leaker", "examples/leaker.rs"))
            .program("/bin/inside", &helper("inside", "tests/vm/inside/main.rs"));
        ["/proc", "/sys", "/dev"].into_iter().fold(machine, Self::directory)
    }

    fn directory(mut self, path: &str) -> Self {
        self.archive.directory(Path::new(path));
        self
    }

    /// An executable, which must be static.
    pub fn program(mut self, path: &str, from: &Path) -> Self {
        let content =
            std::fs::read(from).unwrap_or_else(|error| panic!("cannot read {}: {error}; make it with `tests/setup`", from.display()));
        self.archive.file(path, 0o755, &content);
        self
    }

    /// A file, executable in case it is a script.
    pub fn text(mut self, path: &str, content: &str) -> Self {
        self.archive.file(path, 0o755, content.as_bytes());
        self
    }

    pub fn memory_mib(self, memory_mib: u32) -> Self {
        Self { memory_mib, ..self }
    }

    pub fn cpus(self, cpus: u32) -> Self {
        Self { cpus, ..self }
    }

    /// More for the kernel's command line.
    pub fn arguments(mut self, arguments: &str) -> Self {
        self.arguments += " ";
        self.arguments += arguments;
        self
    }

    /// How long it may take from power on to power off.
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The script ends with `exec firstmate`, and firstmate's end is the machine's.
    pub fn program_as_init(self) -> Self {
        Self { init: Init::Program, ..self }
    }

    /// Boots it with this script, and comes back when it has switched itself off.
    pub fn run(self, script: &str) -> Output {
        let Self { memory_mib, cpus, arguments, patience, init, archive } = self.text("/scenario", script);
        let directory = Directory::new();
        let initramfs = directory.0.join("initramfs");
        let console = directory.0.join("console");
        std::fs::write(&initramfs, archive.finished()).unwrap();
        let kernel = std::env::var_os("VM_KERNEL").map_or_else(|| PathBuf::from(KERNEL), PathBuf::from);
        assert!(kernel.is_file(), "there is no {}; `tests/setup vm` brings it, or name another with VM_KERNEL", kernel.display());
        let started = Instant::now();
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-display", "none", "-nodefaults", "-no-reboot"])
            .args(["-m", &memory_mib.to_string(), "-smp", &cpus.to_string()])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio", "-kernel"])
            .arg(&kernel)
            .arg("-initrd")
            .arg(&initramfs)
            .arg("-append")
            .arg(format!("console=ttyS0 loglevel=4 panic=-1 cgroup_no_v1=all psi=1{arguments}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: one async-signal-safe call. Whatever ends the test ends the machine.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut qemu =
            command.spawn().unwrap_or_else(|error| panic!("cannot start qemu-system-x86_64: {error}; `tests/setup vm` installs it"));
        let (mut stdout, mut stderr) = (BufReader::new(qemu.stdout.take().unwrap()), qemu.stderr.take().unwrap());
        let (sender, lines) = channel();
        let reader = std::thread::spawn(move || {
            let mut line = Vec::new();
            while stdout.read_until(b'\n', &mut line).is_ok_and(|got| got > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
                if sender.send(text).is_err() {
                    break;
                }
                line.clear();
            }
        });
        let verbose = std::env::var_os("VM_VERBOSE").is_some();
        let mut text = String::new();
        let mut in_time = true;
        loop {
            match lines.recv_timeout(patience.saturating_sub(started.elapsed())) {
                Ok(line) => {
                    if verbose {
                        eprintln!("{:6.2} | {line}", started.elapsed().as_secs_f64());
                    }
                    text += &line;
                    text.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    in_time = false;
                    break;
                }
            }
        }
        let _ = qemu.kill();
        let status = qemu.wait().unwrap();
        reader.join().unwrap();
        let mut complaint = String::new();
        let _ = stderr.read_to_string(&mut complaint);
        let kernel_log = String::from_utf8_lossy(&std::fs::read(&console).unwrap_or_default()).replace('\r', "");
        let output = Output { text, kernel: kernel_log, took: started.elapsed() };
        assert!(in_time, "the machine was not through after {patience:?}\n{output}");
        assert!(complaint.is_empty(), "qemu ended ({status}): {complaint}\n{output}");
        if init == Init::Script {
            assert!(output.has("end"), "the machine ended before its script did\n{output}");
        }
        output
    }
}

/// What a machine had to say.
#[derive(Debug)]
pub struct Output {
    text: String,
    kernel: String,
    /// From power on to power off.
    pub took: Duration,
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "--- after {:?}, the kernel:\n{}\n--- the script:\n{}", self.took, self.kernel, self.text)
    }
}

impl Output {
    fn sections(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = self.text.as_str();
        std::iter::from_fn(move || {
            let at = if rest.starts_with(HEADING) { 0 } else { rest.find("\n### ")? + 1 };
            let (name, body) = rest[at + HEADING.len()..].split_once('\n')?;
            let end = if body.starts_with(HEADING) { 0 } else { body.find("\n### ").map_or(body.len(), |at| at + 1) };
            rest = &body[end..];
            Some((name, &body[..end]))
        })
    }

    fn has(&self, name: &str) -> bool {
        self.sections().any(|(known, _)| known == name)
    }

    /// What the script printed after `section NAME`.
    #[track_caller]
    pub fn section(&self, name: &str) -> &str {
        let found = self.sections().find(|&(known, _)| known == name).map(|(_, body)| body);
        found.unwrap_or_else(|| panic!("there is no section `{name}`\n{self}"))
    }

    /// The value of a line `NAME=VALUE` in that section.
    #[track_caller]
    pub fn value(&self, section: &str, name: &str) -> &str {
        let found = self.section(section).lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("there is no `{name}=` in section `{section}`\n{self}"))
    }

    /// The same as a number.
    #[track_caller]
    pub fn number(&self, section: &str, name: &str) -> u64 {
        let value = self.value(section, name);
        value.parse().unwrap_or_else(|_| panic!("`{name}={value}` in section `{section}` is no number\n{self}"))
    }

    /// What the kernel said.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// How PID 1 ended, as wait(2) gives it: the kernel says so as it panics.
    #[track_caller]
    pub fn init_status(&self) -> i32 {
        let code = self.kernel.split("Attempted to kill init! exitcode=0x").nth(1).and_then(|rest| rest.get(..8));
        code.and_then(|code| i32::from_str_radix(code, 16).ok()).unwrap_or_else(|| panic!("PID 1 did not end\n{self}"))
    }
}

/// A directory of its own that goes at the end.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let named = std::thread::current().name().unwrap_or("machine").replace("::", "-");
        let path = std::env::temp_dir().join(format!("firstmate-vm-{}-{named}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn built(name: &str) -> PathBuf {
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    target.join(format!("{}-unknown-linux-musl/release/{name}", std::env::consts::ARCH))
}

/// The one that ships: `$FIRSTMATE_BINARY`, else where `make build` puts it.
fn firstmate() -> PathBuf {
    let path = std::env::var_os("FIRSTMATE_BINARY").map_or_else(|| built("firstmate"), PathBuf::from);
    assert!(path.is_file(), "there is no {}; make it with `make build`, or name another with FIRSTMATE_BINARY", path.display());
    path
}

/// A static helper, which must not be older than its source.
pub fn helper(name: &str, source: &str) -> PathBuf {
    let path = built(&format!("examples/{name}"));
    let modified = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    let (helper, source) = (modified(&path), modified(&Path::new(env!("CARGO_MANIFEST_DIR")).join(source)));
    assert!(helper.is_some() && helper >= source, "{} is missing or stale: run `make helpers`", path.display());
    path
}
