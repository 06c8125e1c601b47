//! `trapeze img`, called `qemu-img`, says what `qemu-img` says.
//!
//! Each case is a list of commands that runs twice, in two directories: once
//! with QEMU's tool and once with ours. Output, errors and exit codes must be
//! the same but for sizes that the host decides (`disk size` and the like).
//! Lines that begin with `=` prepare something with QEMU's tools in both.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory with the tool to be tried as `qemu-img` beside it.
struct Place {
    directory: PathBuf,
    tool: PathBuf,
}

impl Place {
    fn new(case: &str, ours: bool) -> Self {
        let side = if ours { "ours" } else { "theirs" };
        let name = format!("trapeze-img-{}-{case}-{side}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(directory.join("dir")).expect("a writable temporary directory");
        let tool = match ours {
            false => "qemu-img".into(),
            true => {
                let links = directory.join(".links");
                std::fs::create_dir_all(&links).expect("writable");
                let link = links.join("qemu-img");
                symlink(env!("CARGO_BIN_EXE_trapeze"), &link).expect("writable");
                link
            }
        };
        Self { directory, tool }
    }

    fn command(&self, program: &Path, words: &[String]) -> (String, i32) {
        let output = Command::new(program)
            .args(words)
            .current_dir(&self.directory)
            .env("TZ", "UTC")
            .output()
            .unwrap_or_else(|e| panic!("{} (package qemu-utils): {e}", program.display()));
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        (text, output.status.code().unwrap_or(-1))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Words, of which those in double or single quotes may have blanks.
fn words(line: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => all.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    all.extend(word);
    all
}

/// Hides what the host or the time decides.
fn comparable(text: &str) -> String {
    let hide = |line: &str| {
        let indent = &line[..line.len() - line.trim_start().len()];
        let host = [
            "disk size: ",
            "file length: ",
            "\"actual-size\": ",
            "\"date-",
        ];
        if let Some(what) = host.iter().find(|h| line.trim_start().starts_with(**h)) {
            return format!("{indent}{what}...");
        }
        if line.starts_with("Image end offset: ") {
            return "Image end offset: ...".to_string();
        }
        // The size of the file below an image is the host's affair too.
        if indent.len() > 12 && line.contains("\"virtual-size\": ") {
            return format!("{indent}\"virtual-size\": ...");
        }
        if line.trim_start().starts_with("\"image-end-offset\"") {
            return format!("{indent}\"image-end-offset\": ...");
        }
        hide_date(line)
    };
    text.lines().map(hide).collect::<Vec<_>>().join("\n")
}

/// `2026-11-22 05:57:28` of a list of snapshots.
fn hide_date(line: &str) -> String {
    let shape: String = line
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    match shape.find("0000-00-00 00:00:00") {
        Some(at) => format!("{}...{}", &line[..at], &line[at + 19..]),
        None => line.to_string(),
    }
}

fn check(case: &str, lines: &[&str]) {
    let (theirs, ours) = (Place::new(case, false), Place::new(case, true));
    let mut differences = String::new();
    for line in lines {
        if let Some(preparation) = line.strip_prefix('=') {
            let words = words(preparation);
            for place in [&theirs, &ours] {
                place.command(Path::new(&words[0]), &words[1..]);
            }
            continue;
        }
        let words = words(line);
        let (expected, code) = theirs.command(&theirs.tool, &words);
        let (found, our_code) = ours.command(&ours.tool, &words);
        if (comparable(&found), our_code) != (comparable(&expected), code) {
            differences += &format!(
                "\n==== qemu-img {line}\n---- ours ({our_code}):\n{found}---- theirs \
                 ({code}):\n{expected}"
            );
        }
    }
    assert!(differences.is_empty(), "{case}:{differences}");
    same_contents(&theirs, &ours, case);
}

/// What the commands left: the same files, and images that QEMU finds sound
/// and equal.
fn same_contents(theirs: &Place, ours: &Place, case: &str) {
    let names = |place: &Place| {
        let entries = std::fs::read_dir(&place.directory).expect("it is there");
        let mut names: Vec<String> = entries
            .map(|e| {
                e.expect("readable")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .filter(|n| n != ".links")
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(theirs), names(ours), "{case}: files");
    for name in names(theirs) {
        let path = |p: &Place| p.directory.join(&name).display().to_string();
        let (a, b) = (path(theirs), path(ours));
        let program = Path::new("qemu-img");
        if name.ends_with(".qcow2") && !name.starts_with("bad") {
            let (text, code) = ours.command(program, &["check".into(), b.clone()]);
            assert!(code == 0, "{case}: {name}: {text}");
        }
        let (_, readable) = theirs.command(program, &["compare".into(), a.clone(), a.clone()]);
        if readable == 0 {
            let (text, code) = theirs.command(program, &["compare".into(), a, b]);
            assert!(code == 0, "{case}: {name}: {text}");
        }
    }
}

/// The commands of the source documents (W-15, W-19, W-22), and the errors in
/// them.
#[test]
fn documented() {
    check(
        "documented",
        &[
            "create -f raw lianhua_demo.img -o preallocation=off 10G",
            "info lianhua_demo.img",
            "create -f raw lianhua_demo_full.img -o preallocation=full 10M",
            "create -f raw lianhua_demo_falloc.img -o preallocation=falloc 10M",
            "create -f qcow2 windows-master.qcow2 10G",
            "create -b windows-master.qcow2 -f qcow2 windows-clone.qcow2",
            "create -b windows-master.qcow2 -F qcow2 -f qcow2 windows-clone.qcow2",
            "info windows-clone.qcow2",
            "create -f qcow2 ubuntu-1404-vm.img 5G",
            "create -f raw base 40G",
            "create -f qcow2 -b base -F raw disk 40G",
            "info disk",
            "-f qcow gtes11.img 20G",
        ],
    );
}

#[test]
fn create() {
    check(
        "create",
        &[
            "create a 1M",
            "create -f raw b.raw 1000",
            "create -f raw c.raw -o preallocation=metadata 1M",
            // QEMU leaves an empty file.
            "=rm -f c.raw",
            "create -f qcow2 a.qcow2 10M",
            "create -q -f qcow2 b.qcow2 10M",
            "create -f qcow2 c.qcow2 -o preallocation=metadata,cluster_size=512,lazy_refcounts=on 10M",
            "create -f qcow2 d.qcow2 -o compat=0.10 10M",
            "create -f qcow2 d1.qcow2 -o compat=v3,compat=v2 10M",
            "create -f qcow2 -b a.qcow2 -F qcow2 e.qcow2",
            "create -f qcow2 -b a.qcow2 -F qcow2 e2.qcow2 20M",
            "create -f qcow2 -o backing_file=a.qcow2,backing_fmt=qcow2 e3.qcow2",
            "create -f qcow2 -o backing_file=a.qcow2,backing_fmt=qcow2 e3.qcow2 5M",
            "create -f qcow2 -b a.qcow2 -F raw e4.qcow2 1M",
            "create -f qcow2 -b a.qcow2 -F foo e5.qcow2",
            "create -u -b nothing -F raw -f qcow2 bad-f.qcow2",
            "create -u -b nothing -F raw -f qcow2 bad-f.qcow2 1G",
            "create -f qcow2 -b nothing -F raw g.qcow2 1G",
            "create -f raw -b a.qcow2 -F qcow2 n1.raw",
            "create -F qcow2 -f qcow2 n1.qcow2 1M",
            "create -f qcow2 -o size=5M n2.qcow2",
            "create -f qcow2 -o size=5M n1.qcow2 6M",
            "create -f qcow2 -o refcount_bits=64 h.qcow2 1G",
            "create -f qcow2 -o refcount_bits=1 h1.qcow2 1G",
            "create -f qcow2 -o cluster_size=2M,preallocation=falloc h2.qcow2 5M",
            "create -f qcow2 -o cluster_size=4k,preallocation=full h3.qcow2 1M",
            "create -f qcow2 i.qcow2",
            "create -f qcow2",
            "create -f nope x 1G",
            "create -f qcow2 x 1Z",
            "create -f qcow2 x -o foo=bar 1G",
            "create -f qcow2 x -o cluster_size=foo 1G",
            "create -f qcow2 x -o lazy_refcounts=maybe 1G",
            "create -f qcow2 x -1",
            "create -f qcow2 zero.qcow2 0",
            "create -f qcow2 odd.qcow2 1000",
            "create -f qcow2 k.qcow2 1.5G",
            "create -f qcow2 x 1G extra",
            "create -f qcow2 x 1000000000T",
            "create -f raw x 9999999T",
            "create -f qcow2 self.qcow2 -b self.qcow2 -F qcow2 1M",
            "create -f qcow2 a.qcow2 3M",
            "create --format=qcow2 --quiet --options=cluster_size=4k l.qcow2 3M",
            "create -qfqcow2 m.qcow2 3M",
            "create --foo",
            "create -f",
        ],
    );
}

/// These fail after an empty file has been made, which QEMU leaves there.
#[test]
fn create_refused_late() {
    check(
        "create-refused",
        &[
            "create -f qcow2 /nonexistent/x 1G",
            "=rm -f x",
            "create -f qcow2 x -o cluster_size=1000 1G",
            "=rm -f x",
            "create -f qcow2 x -o cluster_size=4M 1G",
            "=rm -f x",
            "create -f qcow2 x -o refcount_bits=7 1G",
            "=rm -f x",
            "create -f qcow2 x -o preallocation=foo 1G",
            "=rm -f x",
            "create -f qcow2 x -o compat=foo 1G",
            "=rm -f x",
            "create -f qcow2 x -o compat=0.10,lazy_refcounts=on 1G",
            "=rm -f x",
            "create -f qcow2 x -o compat=v2,refcount_bits=1 1G",
            "=rm -f x",
            "create -f qcow2 x -o cluster_size=512 1T",
            "=rm -f x",
        ],
    );
}

#[test]
fn info() {
    check(
        "info",
        &[
            "create -q -f qcow2 a.qcow2 10M",
            "create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2",
            "create -q -f qcow2 -b b.qcow2 -F qcow2 c.qcow2",
            "create -q -f qcow2 -u -b ../a.qcow2 -F qcow2 dir/d.qcow2 1M",
            "create -q -f qcow2 -o compat=v2 v2.qcow2 1M",
            "create -q -f qcow2 -o lazy_refcounts=on,refcount_bits=8,cluster_size=4k l.qcow2 1M",
            "create -q -f raw r.raw 3M",
            "info a.qcow2",
            "info b.qcow2",
            "info -b c.qcow2",
            "info --backing-chain --output=json c.qcow2",
            "info dir/d.qcow2",
            "info --output=json dir/d.qcow2",
            "info v2.qcow2",
            "info --output=json v2.qcow2",
            "info l.qcow2",
            "info r.raw",
            "info --output=json r.raw",
            "info -f raw a.qcow2",
            "info -f qcow2 r.raw",
            "info -U a.qcow2",
            "info file:a.qcow2",
            "info 'json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"a.qcow2\"}}'",
            "info 'json:{\"file.filename\":\"a.qcow2\"}'",
            "info foo:a.qcow2",
            "info nope",
            "info .",
            "info -f foo a.qcow2",
            "info --output=xml a.qcow2",
            "info",
            "info a b",
            "info --snapshots",
        ],
    );
}

#[test]
fn damaged() {
    check(
        "damaged",
        &[
            "=qemu-img create -q -f qcow2 bad.qcow2 10M",
            "=cp bad.qcow2 bad1.qcow2",
            "=truncate -s 100 bad1.qcow2",
            "info bad1.qcow2",
            "=cp bad.qcow2 bad2.qcow2",
            "=sh -c \"printf '\\377' | dd of=bad2.qcow2 bs=1 seek=7 conv=notrunc\"",
            "info bad2.qcow2",
            "=cp bad.qcow2 bad3.qcow2",
            "=sh -c \"printf '0' | dd of=bad3.qcow2 bs=1 seek=23 conv=notrunc\"",
            "info bad3.qcow2",
            "=cp bad.qcow2 bad4.qcow2",
            "=sh -c \"printf '\\377' | dd of=bad4.qcow2 bs=1 seek=36 conv=notrunc\"",
            "info bad4.qcow2",
            "=cp bad.qcow2 bad5.qcow2",
            "=sh -c \"printf '\\001' | dd of=bad5.qcow2 bs=1 seek=47 conv=notrunc\"",
            "info bad5.qcow2",
            "=cp bad.qcow2 bad6.qcow2",
            "=sh -c \"head -c 4 /dev/zero | dd of=bad6.qcow2 bs=1 seek=56 conv=notrunc\"",
            "info bad6.qcow2",
            "=cp bad.qcow2 bad7.qcow2",
            "=sh -c \"printf '\\377' | dd of=bad7.qcow2 bs=1 seek=60 conv=notrunc\"",
            "info bad7.qcow2",
            "=cp bad.qcow2 bad8.qcow2",
            "=sh -c \"printf '\\200' | dd of=bad8.qcow2 bs=1 seek=72 conv=notrunc\"",
            "info bad8.qcow2",
            "=cp bad.qcow2 bad9.qcow2",
            "=sh -c \"printf '\\002' | dd of=bad9.qcow2 bs=1 seek=79 conv=notrunc\"",
            "info bad9.qcow2",
            "resize bad9.qcow2 20M",
            "check bad9.qcow2",
            "=cp bad.qcow2 bad10.qcow2",
            "=sh -c \"printf '\\100' | dd of=bad10.qcow2 bs=1 seek=24 conv=notrunc\"",
            "info bad10.qcow2",
            "=cp bad.qcow2 bad11.qcow2",
            "=sh -c \"printf '\\001' | dd of=bad11.qcow2 bs=1 seek=24 conv=notrunc\"",
            "info bad11.qcow2",
        ],
    );
}

/// Prepares `base.qcow2`: an L2 table at 0x40000, data from 0x50000 on.
const BASE: [&str; 2] = [
    "=qemu-img create -q -f qcow2 base.qcow2 10M",
    "=qemu-io -c 'write -P 1 0 256k' -c 'write -P 2 1M 64k' -c 'write -z 2M 64k' base.qcow2",
];

fn check_on_base(case: &str, lines: &[&str]) {
    let all: Vec<&str> = BASE.iter().chain(lines).copied().collect();
    check(case, &all);
}

#[test]
fn check_and_repair() {
    check_on_base(
        "check",
        &[
            "check base.qcow2",
            "check --output=json base.qcow2",
            "check -q base.qcow2",
            // A cluster in use that is counted as free.
            "=cp base.qcow2 bad1.qcow2",
            "=sh -c \"head -c 2 /dev/zero | dd of=bad1.qcow2 bs=1 seek=131082 conv=notrunc\"",
            "check bad1.qcow2",
            "check --output=json bad1.qcow2",
            "check -r leaks bad1.qcow2",
            "check -r all bad1.qcow2",
            "check bad1.qcow2",
            // One that is counted twice.
            "=cp base.qcow2 bad2.qcow2",
            "=sh -c \"printf '\\002' | dd of=bad2.qcow2 bs=1 seek=131083 conv=notrunc\"",
            "check bad2.qcow2",
            "check --output=json bad2.qcow2",
            "=cp bad2.qcow2 bad3.qcow2",
            "check -r leaks bad2.qcow2",
            "check bad2.qcow2",
            "check -r all --output=json bad3.qcow2",
            // Marks that are wrong.
            "=cp base.qcow2 bad4.qcow2",
            "=sh -c \"head -c 1 /dev/zero | dd of=bad4.qcow2 bs=1 seek=262144 conv=notrunc\"",
            "check bad4.qcow2",
            "=cp bad4.qcow2 bad4j.qcow2",
            "check -r all bad4.qcow2",
            "check bad4.qcow2",
            "check -r all --output=json bad4j.qcow2",
            "=cp base.qcow2 bad5.qcow2",
            "=sh -c \"head -c 1 /dev/zero | dd of=bad5.qcow2 bs=1 seek=196608 conv=notrunc\"",
            "check bad5.qcow2",
            "check -r all bad5.qcow2",
            // Data behind the end of the file.
            "=cp base.qcow2 bad6.qcow2",
            "=sh -c \"printf '\\377' | dd of=bad6.qcow2 bs=1 seek=262148 conv=notrunc\"",
            "check bad6.qcow2",
            // Reserved bits.
            "=cp base.qcow2 bad7.qcow2",
            "=sh -c \"printf '\\001' | dd of=bad7.qcow2 bs=1 seek=196615 conv=notrunc\"",
            "=sh -c \"printf '\\002' | dd of=bad7.qcow2 bs=1 seek=262151 conv=notrunc\"",
            "check bad7.qcow2",
            // No refcount block.
            "=cp base.qcow2 bad8.qcow2",
            "=sh -c \"head -c 8 /dev/zero | dd of=bad8.qcow2 bs=1 seek=65536 conv=notrunc\"",
            "check bad8.qcow2",
            "check -r all bad8.qcow2",
            "check bad8.qcow2",
        ],
    );
}

#[test]
fn check_of_other_images() {
    check_on_base(
        "check-others",
        &[
            // Never closed.
            "=cp base.qcow2 bad9.qcow2",
            "=sh -c \"printf '\\001' | dd of=bad9.qcow2 bs=1 seek=79 conv=notrunc\"",
            "info bad9.qcow2",
            "check bad9.qcow2",
            "check -r all bad9.qcow2",
            "info bad9.qcow2",
            "=qemu-img create -q -f raw r.raw 1M",
            "check r.raw",
            "check -r foo base.qcow2",
            "check",
            "check --output=x base.qcow2",
            "check nope",
            "check -T foo base.qcow2",
            "=qemu-img convert -c -O qcow2 base.qcow2 packed.qcow2",
            "check packed.qcow2",
            "check --output=json packed.qcow2",
        ],
    );
}

#[test]
fn map() {
    check_on_base(
        "map",
        &[
            "=qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2",
            "=qemu-io -c 'write -P 2 128k 1M' -c 'write -z 3M 128k' top.qcow2",
            "map base.qcow2",
            "map --output=json base.qcow2",
            "map top.qcow2",
            "map --output=json top.qcow2",
            "map -s 600k -l 1M top.qcow2",
            "map --output=json -s 600k -l 1M top.qcow2",
            "map -s 20M top.qcow2",
            "=qemu-img create -q -f raw r.raw 1M",
            "=sh -c \"printf abc | dd of=r.raw conv=notrunc bs=1 seek=300000\"",
            "map -f raw r.raw",
            "map -f raw --output=json r.raw",
            "=qemu-img create -q -f qcow2 -o preallocation=metadata pm.qcow2 1M",
            "map pm.qcow2",
            "map --output=json pm.qcow2",
            "=qemu-io -c 'write -z 0 64k' pm.qcow2",
            "map --output=json pm.qcow2",
            "=qemu-img convert -c -O qcow2 base.qcow2 packed.qcow2",
            "map packed.qcow2",
            "map --output=json packed.qcow2",
            "=qemu-img create -q -f raw short.raw 100k",
            "=qemu-img create -q -f qcow2 -b short.raw -F raw long.qcow2 1M",
            "map --output=json long.qcow2",
            "map -s foo top.qcow2",
            "map",
            "map nope",
            "map --output=foo top.qcow2",
        ],
    );
}

#[test]
fn compare() {
    check_on_base(
        "compare",
        &[
            "=qemu-img convert -c -O qcow2 base.qcow2 packed.qcow2",
            "=qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2",
            "=qemu-io -c 'write -P 3 512k 1M' top.qcow2",
            "compare base.qcow2 packed.qcow2",
            "compare base.qcow2 top.qcow2",
            "compare -q base.qcow2 top.qcow2",
            "compare -s base.qcow2 packed.qcow2",
            "=qemu-img create -q -f raw z1 1M",
            "=qemu-img create -q -f raw z2 2M",
            "compare -f raw -F raw z1 z2",
            "compare -s -f raw -F raw z1 z2",
            "=sh -c 'printf x | dd of=z2 bs=1 seek=1500000 conv=notrunc'",
            "compare -f raw -F raw z1 z2",
            "compare -f raw -F raw z2 z1",
            "compare z1 nope",
            "compare z1",
            "compare -f foo z1 z1",
        ],
    );
}

#[test]
fn resize() {
    check_on_base(
        "resize",
        &[
            "resize base.qcow2 20M",
            "resize base.qcow2 +1M",
            "resize base.qcow2 -- -1M",
            "resize --shrink base.qcow2 -- -1M",
            "resize base.qcow2 5M",
            "resize --shrink base.qcow2 1500k",
            "resize base.qcow2 3M",
            "resize --preallocation=falloc base.qcow2 30M",
            "resize --preallocation=metadata base.qcow2 31M",
            "resize --preallocation=foo base.qcow2 32M",
            "resize --shrink --preallocation=falloc base.qcow2 20M",
            "resize base.qcow2",
            "resize -q base.qcow2 33M",
            "resize base.qcow2 foo",
            "resize base.qcow2 1000P",
            "info base.qcow2",
            "=qemu-img create -q -f raw r.raw 1M",
            "resize -f raw r.raw 3M",
            "resize r.raw 4M",
            "resize -f raw --shrink r.raw 2M",
            "resize -f raw --preallocation=full r.raw 3M",
            "resize nope 4M",
            "=qemu-img create -q -f qcow2 big.qcow2 1G",
            "=qemu-img resize -q big.qcow2 2T",
            "resize big.qcow2 3T",
            "info big.qcow2",
            "=qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 short.qcow2 100k",
            "resize short.qcow2 2M",
        ],
    );
}

#[test]
fn snapshot() {
    check_on_base(
        "snapshot",
        &[
            "snapshot -l base.qcow2",
            "snapshot -c one base.qcow2",
            "=qemu-io -c 'write -P 7 100k 500k' base.qcow2",
            "snapshot -c two base.qcow2",
            "snapshot -l base.qcow2",
            "snapshot base.qcow2",
            "info base.qcow2",
            "info --output=json base.qcow2",
            "check base.qcow2",
            "snapshot -a one base.qcow2",
            "check base.qcow2",
            "=qemu-io -c 'write -P 8 0 500k' base.qcow2",
            "snapshot -a 2 base.qcow2",
            "check base.qcow2",
            "=qemu-img convert -O raw -l snapshot.name=one base.qcow2 one.raw",
            "convert -O raw -l snapshot.name=two base.qcow2 two.raw",
            "convert -l nope base.qcow2 three.raw",
            "snapshot -a 9 base.qcow2",
            "snapshot -d nope base.qcow2",
            "snapshot -d one base.qcow2",
            "check base.qcow2",
            "snapshot -q -c three base.qcow2",
            "snapshot -d three base.qcow2",
            "snapshot -d two base.qcow2",
            "check base.qcow2",
            "snapshot -a x -d y base.qcow2",
            "=qemu-img create -q -f raw r.raw 1M",
            "snapshot -c x r.raw",
            "snapshot -l r.raw",
            "snapshot",
        ],
    );
}

#[test]
fn rebase() {
    check_on_base(
        "rebase",
        &[
            "=qemu-img create -q -f qcow2 base2.qcow2 10M",
            "=qemu-io -c 'write -P 9 64k 64k' -c 'write -P 9 5M 64k' base2.qcow2",
            "=qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2",
            "=qemu-io -c 'write -P 2 512k 1M' top.qcow2",
            "=cp top.qcow2 top2.qcow2",
            "rebase -b base2.qcow2 -F qcow2 top.qcow2",
            "info top.qcow2",
            "rebase -b base.qcow2 top.qcow2",
            "rebase -b base.qcow2 -F qcow2 top.qcow2",
            "rebase -u -b nope -F qcow2 top.qcow2",
            "rebase -b base.qcow2 -F qcow2 top.qcow2",
            "rebase -u -b base.qcow2 -F qcow2 top.qcow2",
            "rebase -b nope -F qcow2 top.qcow2",
            "rebase -u -b nope top.qcow2",
            "rebase -b base.qcow2 -F foo top.qcow2",
            "rebase -b '' top2.qcow2",
            "info top2.qcow2",
            "rebase -u -b '' top.qcow2",
            "rebase top.qcow2",
            "rebase -b base.qcow2",
            "=qemu-img create -q -f raw r.raw 1M",
            "rebase -b base.qcow2 -F qcow2 r.raw",
            "rebase -f raw -b base.qcow2 -F qcow2 r.raw",
        ],
    );
}

#[test]
fn commit() {
    check_on_base(
        "commit",
        &[
            "=qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2 12M",
            "=qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2",
            "=qemu-io -c 'write -P 5 512k 1M' -c 'write -z 0 64k' mid.qcow2",
            "=qemu-io -c 'write -P 6 600k 100k' -c 'write -P 7 11M 64k' top.qcow2",
            "commit top.qcow2",
            "map --output=json -l 64k top.qcow2",
            "commit -d mid.qcow2",
            "commit -q mid.qcow2",
            "=qemu-io -c 'write -P 9 700k 100k' top.qcow2",
            "commit -b base.qcow2 top.qcow2",
            "commit base.qcow2",
            "commit -b foo top.qcow2",
            "commit -t foo top.qcow2",
            "commit nope",
            "commit",
            "=qemu-img create -q -f raw r.raw 1M",
            "commit r.raw",
        ],
    );
}

#[test]
fn convert() {
    check_on_base(
        "convert",
        &[
            "convert -O qcow2 base.qcow2 o.qcow2",
            "convert -O raw base.qcow2 o.raw",
            "convert -c -O qcow2 base.qcow2 packed.qcow2",
            "convert -O qcow2 packed.qcow2 unpacked.qcow2",
            "convert -S 0 -O raw base.qcow2 full.raw",
            "convert -S 64k -O raw base.qcow2 coarse.raw",
            "convert -O qcow2 -o cluster_size=4k,preallocation=metadata base.qcow2 o7.qcow2",
            "=qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2",
            "=qemu-io -c 'write -P 2 512k 1M' top.qcow2",
            "convert -O qcow2 -B base.qcow2 -F qcow2 top.qcow2 o3.qcow2",
            "convert -O qcow2 -B base.qcow2 top.qcow2 o4.qcow2",
            "map --output=json o3.qcow2",
            "convert",
            "convert a",
            "convert -O nope base.qcow2 o1.raw",
            "convert -f nope base.qcow2 o1.raw",
            "convert nope o1.raw",
            "convert -c -O raw base.qcow2 o1.raw",
            "convert -O qcow2 -o foo=1 base.qcow2 o2",
            "convert -n -O raw base.qcow2 nonex",
            "convert -S foo -O raw base.qcow2 o6.raw",
            "convert -m 99 -O raw base.qcow2 o6.raw",
            "convert -t foo -O raw base.qcow2 o6.raw",
            "convert -T foo -O raw base.qcow2 o6.raw",
            // QEMU makes the target before it looks at the cache mode.
            "=rm -f o6.raw",
            "convert -O raw base.qcow2 /nonex/o6.raw",
            "convert -c -O qcow2 -o preallocation=metadata base.qcow2 o8.qcow2",
            "=qemu-img create -q -f raw z1 1M",
            "=qemu-img create -q -f raw z2 12M",
            "convert -f raw -O raw z1 z1 zz",
            "convert -n -O raw base.qcow2 z1",
            "convert -n -O raw base.qcow2 z2",
            "convert -q -x base.qcow2 z1",
            "convert --foo base.qcow2 z1",
            "convert -O",
        ],
    );
}

/// An image that a machine is using.
#[test]
fn in_use() {
    let (theirs, ours) = (Place::new("in-use", false), Place::new("in-use", true));
    let mut held = Vec::new();
    for place in [&theirs, &ours] {
        for line in [
            "create -q -f qcow2 a.qcow2 1M",
            "create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2",
        ] {
            place.command(Path::new("qemu-img"), &words(line));
        }
        let path = place.directory.join("a.qcow2");
        let options = disk::DiskOptions::default();
        let disk = disk::Disk::open(path.to_str().expect("ASCII"), &options);
        held.push(disk.unwrap_or_else(|e| panic!("{e}")));
    }
    for line in [
        "info a.qcow2",
        "info -U a.qcow2",
        "check a.qcow2",
        "check -U a.qcow2",
        "resize a.qcow2 2M",
        "snapshot -c x a.qcow2",
        "map a.qcow2",
        "compare a.qcow2 a.qcow2",
        "convert a.qcow2 c.raw",
        "convert b.qcow2 c.raw",
        "commit b.qcow2",
        "create -f qcow2 a.qcow2 1M",
        "create -f qcow2 -b a.qcow2 -F qcow2 d.qcow2",
        "rebase -u -b '' a.qcow2",
    ] {
        let words = words(line);
        let (expected, code) = theirs.command(&theirs.tool, &words);
        let (found, our_code) = ours.command(&ours.tool, &words);
        assert_eq!(
            (comparable(&found), our_code),
            (comparable(&expected), code),
            "qemu-img {line}"
        );
    }
    drop(held);
}

#[test]
fn general() {
    check(
        "general",
        &[
            "",
            "-f x",
            "--foo",
            "-x create",
            "frobnicate",
            "create -x",
            "info -x",
        ],
    );
}
