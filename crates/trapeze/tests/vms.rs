//! Machines and images with names: what a user gets wrong is said in one line,
//! with exit code 1, and changes nothing.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const TRAPEZE: &str = env!("CARGO_BIN_EXE_trapeze");

/// A user with an image `debian`, whose disk has 1 GiB, and a machine `web`
/// made of it. Neither could boot.
struct User(PathBuf);

impl User {
    fn new(test: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("vms-{test}"));
        let _ = fs::remove_dir_all(&folder);
        let user = Self(folder);
        let image = user.image("debian");
        fs::create_dir_all(&image).unwrap();
        let about = r#"{"system":"D","kernel":"k","append":"a","seeded":true}"#;
        fs::write(image.join("image.json"), about).unwrap();
        fs::write(image.join("vmlinuz"), "no kernel").unwrap();
        let disk = image.join("disk.qcow2");
        user.ok(&[
            "img",
            "create",
            "-q",
            "-f",
            "qcow2",
            disk.to_str().unwrap(),
            "1G",
        ]);
        let vm = user.vm("web");
        fs::create_dir_all(&vm).unwrap();
        let config = r#"{"image":"debian","cpus":1,"memory":"1G","ssh_port":9,"publish":[],"shares":[],"options":[]}"#;
        fs::write(vm.join("vm.json"), config).unwrap();
        let disk = vm.join("disk.qcow2");
        user.ok(&[
            "img",
            "create",
            "-q",
            "-f",
            "qcow2",
            disk.to_str().unwrap(),
            "1G",
        ]);
        user
    }

    fn image(&self, name: &str) -> PathBuf {
        self.0.join("data/trapeze/images").join(name)
    }

    fn vm(&self, name: &str) -> PathBuf {
        self.0.join("state/trapeze/vms").join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(TRAPEZE);
        command
            .args(words)
            .env("HOME", self.0.join("home"))
            .env("XDG_STATE_HOME", self.0.join("state"))
            .env("XDG_DATA_HOME", self.0.join("data"))
            .env("XDG_CACHE_HOME", self.0.join("cache"))
            .stdin(Stdio::null());
        command
    }

    fn ok(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Exactly one line of complaint with every one of `parts` in it, no text of
    /// the system's errors, and nothing changed.
    fn check(&self, words: &[&str], parts: &[&str]) {
        let before = files(&self.0);
        let output = self.command(words).output().unwrap();
        self.check_output(words, &output, parts);
        assert_eq!(files(&self.0), before, "{words:?}");
    }

    fn check_output(&self, words: &[&str], output: &Output, parts: &[&str]) {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{words:?}: {said}");
        assert!(said.starts_with("trapeze: "), "{words:?}: {said}");
        assert!(!said.contains("os error"), "{words:?}: {said}");
        assert!(output.stdout.is_empty(), "{words:?}: {output:?}");
        for part in parts {
            assert!(said.contains(part), "{words:?}: no '{part}' in: {said}");
        }
    }
}

/// Every file and folder but locks, which may stay.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(files(&path));
        }
        if !path.to_string_lossy().ends_with("lock") {
            all.push(path);
        }
    }
    all.sort();
    all
}

#[test]
fn machines_that_are_not_there() {
    let user = User::new("absent");
    for command in ["start", "stop", "rm", "console", "logs", "ssh", "exec"] {
        let mut words = vec![command, "wbe"];
        words.extend(["ls"].iter().filter(|_| command == "exec"));
        user.check(&words, &["no machine 'wbe'", "'web'?", "'trapeze ls'"]);
        words[1] = "other";
        let said = user.command(&words).output().unwrap().stderr;
        let said = String::from_utf8(said).unwrap();
        assert_eq!(
            said,
            "trapeze: there is no machine 'other'; 'trapeze ls' lists them\n"
        );
        words[1] = "../web";
        user.check(&words, &["'../web' is no name", "a-z, 0-9 and -"]);
    }
    // All are looked for before one goes.
    user.check(&["rm", "web", "nope"], &["no machine 'nope'"]);
}

#[test]
fn machines_that_do_not_run() {
    let user = User::new("stopped");
    for words in [
        &["console", "web"][..],
        &["ssh", "web"],
        &["exec", "web", "ls"],
    ] {
        user.check(words, &["web does not run", "'trapeze start web'"]);
    }
    user.check(&["stop", "web"], &["web does not run"]);
    user.check(&["logs", "web"], &["web has not run yet"]);
    user.check(&["logs", "-f", "web"], &["web has not run yet"]);
}

#[test]
fn words_that_cannot_be() {
    let user = User::new("words");
    user.check(
        &["ls", "--jsn"],
        &["ls:", "'--jsn'", "'--json'", "ls --help"],
    );
    user.check(&["stop"], &["<NAME>", "stop --help"]);
    user.check(&["stop", "web", "--time", "soon"], &["'soon'", "--time"]);
    user.check(&["exec", "web"], &["COMMAND"]);
    user.check(&["image"], &["build, import, ls, rm"]);
    user.check(&["image", "biuld"], &["'biuld'", "'build'"]);
    user.check(&["image", "build", "arch"], &["'arch'", "debian"]);
    user.check(&["run"], &["<IMAGE>"]);
    user.check(&["run", "debian", "--cpus", "0"], &["'0'", "--cpus", "255"]);
    user.check(&["run", "debian", "--no-wait"], &["--detach"]);
    user.check(&["completions", "tcsh"], &["'tcsh'", "bash, zsh, fish"]);
    user.check(&["rnu", "debian"], &["'rnu' is not a command", "'run'"]);
}

#[test]
fn machines_that_cannot_be_made() {
    let user = User::new("run");
    let run = |words: &[&str], parts: &[&str]| {
        user.check(&[&["run", "debian"], words].concat(), parts);
    };
    run(
        &["--name", "web"],
        &["'web' is in use", "trapeze start web"],
    );
    run(&["--name", "Web"], &["'Web' is no name", "a-z"]);
    run(&["--memory", "lots"], &["--memory: 'lots'", "1G"]);
    run(&["--disk-size", "big"], &["--disk-size: 'big'", "1G"]);
    run(&["--disk-size", "512M"], &["512 MiB", "1 GiB", "only grow"]);
    run(&["--publish", "80"], &["--publish 80:", "8080:80"]);
    run(
        &["--publish", "1:70000"],
        &["--publish 1:70000:", "8080:80"],
    );
    run(&["--publish", "0:1"], &["--publish 0:1:", "8080:80"]);
    run(&["--publish", "::1:8080:80"], &["IPv4"]);
    run(
        &["--publish", "192.0.2.1:8080:80"],
        &["192.0.2.1:8080", "no address of this host"],
    );
    run(&["--share", "/no/where"], &["no folder '/no/where'"]);
    run(
        &["--share", "/etc/passwd:p"],
        &["'/etc/passwd' is not a folder"],
    );
    run(&["--share", "/etc:a b"], &["'a b' is no tag", "DIR:TAG"]);
    run(
        &["--share", "/etc", "--share", "/usr:etc"],
        &["two", "'etc'"],
    );
    user.check(&["run", "debain"], &["no image 'debain'", "'debian'?"]);
    user.check(&["run", "../x"], &["'../x' is no name"]);
    user.check(&["run", "/etc/passwd"], &["is a file", "image import"]);
}

#[test]
fn a_port_that_somebody_has() {
    let user = User::new("port");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let publish = format!("{port}:80");
    let taken = format!("127.0.0.1:{port}");
    user.check(
        &["run", "debian", "--publish", &publish],
        &["--publish", &taken, "listens there already"],
    );
}

#[test]
fn a_published_port_that_somebody_has_at_the_next_start() {
    let user = User::new("start-port");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let path = user.vm("web").join("vm.json");
    let config = fs::read_to_string(&path).unwrap();
    let publish = format!(r#""publish":["{taken}-:80"]"#);
    fs::write(&path, config.replace(r#""publish":[]"#, &publish)).unwrap();
    user.check(
        &["start", "web"],
        &["web publishes", &taken, "listens there"],
    );
}

#[test]
fn folders_with_names_too_long_for_sockets() {
    let user = User::new("long");
    let long = user.0.join("x".repeat(100));
    let words = ["run", "debian", "--detach"];
    let output = user.command(&words).env("XDG_STATE_HOME", &long).output();
    user.check_output(&words, &output.unwrap(), &["107", "XDG_STATE_HOME"]);
    let left = files(&long.join("trapeze/vms"));
    assert!(left.is_empty(), "{left:?}");
}

/// Whoever comes first, the others see all of a machine and an image, or none.
#[test]
fn many_at_once() {
    let user = User::new("many");
    let disk = user.image("debian").join("disk.qcow2");
    let kernel = user.image("debian").join("vmlinuz");
    let (disk, kernel) = (disk.to_str().unwrap(), kernel.to_str().unwrap());
    let import = [
        "image", "import", disk, "--name", "some", "--kernel", kernel,
    ];
    // The key is made first, which is no part of this.
    let _ = user.command(&["start", "web"]).output().unwrap();
    let start = |words: &[&str]| {
        let mut command = user.command(words);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let run = ["run", "some", "--detach"];
    for _ in 0..5 {
        user.ok(&import);
        let runs = [(); 4].map(|()| start(&run));
        let removal = start(&["image", "rm", "some"]);
        for child in runs.into_iter().chain([removal]) {
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            let known = ["vmlinuz", "no image 'some'", "in use by some"];
            let good = output.status.success() || known.iter().any(|k| said.contains(k));
            assert!(good && said.lines().count() <= 1, "{said}");
        }
        let _ = user.command(&["image", "rm", "some"]).output().unwrap();
        assert!(!user.image("some").exists());
    }
    let starts = [(); 4].map(|()| start(&["start", "web"]));
    let removals = [(); 2].map(|()| start(&["rm", "web"]));
    for child in starts.into_iter().chain(removals) {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let known = ["vmlinuz", "no machine 'web'", "web has been removed"];
        let good = output.status.success() || known.iter().any(|k| said.contains(k));
        assert!(good && said.lines().count() <= 1, "{said}");
    }
    let left = files(&user.0.join("state/trapeze/vms"));
    assert!(left.is_empty(), "{left:?}");
}

/// What the machine itself says is passed on, and no half of it stays.
#[test]
fn a_machine_that_does_not_start() {
    let user = User::new("start");
    let run = ["run", "debian", "--detach", "--name", "new"];
    // Its key is made by the way.
    let _ = user.command(&run).output().unwrap();
    user.check(&run, &["vmlinuz"]);
    let more = [&run[..], &["--", "-frob"]].concat();
    user.check(&more, &["-frob"]);
    let all = user.ok(&["ls", "--json"]);
    assert!(!all.contains("\"new\"") && all.contains("\"web\""), "{all}");
}

#[test]
fn images_that_cannot_be() {
    let user = User::new("images");
    user.check(
        &["image", "rm", "debain"],
        &["no image 'debain'", "'debian'?"],
    );
    user.check(&["image", "rm", "debian"], &["in use by web", "trapeze rm"]);
    user.check(
        &["image", "build", "debian", "--refresh"],
        &["in use by web"],
    );
    let import = |words: &[&str], parts: &[&str]| {
        user.check(&[&["image", "import"], words].concat(), parts);
    };
    let disk = user.image("debian").join("disk.qcow2");
    let disk = disk.to_str().unwrap();
    import(&[disk], &["--name"]);
    import(&["/no/disk", "--name", "x"], &["no file '/no/disk'"]);
    import(&["/etc", "--name", "x"], &["'/etc' is a folder"]);
    import(&[disk, "--name", "X"], &["'X' is no name"]);
    import(
        &[disk, "--name", "debian"],
        &["image 'debian' already", "image rm"],
    );
    import(&[disk, "--name", "x", "--initrd", disk], &["--kernel"]);
    import(
        &[disk, "--name", "x", "--kernel", "/no/kernel"],
        &["no file '/no/kernel'"],
    );
    let odd = user.0.join("odd.qcow2");
    let mut bytes = fs::read(disk).unwrap();
    // Of a version that is yet to come.
    bytes[7] = 9;
    fs::write(&odd, bytes).unwrap();
    import(&[odd.to_str().unwrap(), "--name", "x"], &["odd.qcow2", "9"]);
}

#[test]
fn an_image_with_a_kernel_of_the_users() {
    let user = User::new("import");
    let disk = user.0.join("disk.raw");
    fs::write(&disk, vec![7; 1 << 20]).unwrap();
    let kernel = user.0.join("kernel");
    fs::write(&kernel, "a kernel").unwrap();
    let (disk, kernel) = (disk.to_str().unwrap(), kernel.to_str().unwrap());
    let words = ["image", "import", disk, "--name", "own", "--kernel", kernel];
    user.ok(&[&words[..], &["--append", "root=/dev/vda9"]].concat());
    let copy = fs::read(user.image("own").join("vmlinuz")).unwrap();
    assert_eq!(copy, b"a kernel");
    let same = user.image("own").join("disk.qcow2");
    user.ok(&["img", "compare", disk, same.to_str().unwrap()]);
    let all = user.ok(&["image", "ls", "--json"]);
    let all: serde_json::Value = serde_json::from_str(&all).unwrap();
    assert_eq!(all[1]["name"], "own");
    assert_eq!(all[1]["append"], "root=/dev/vda9");
    assert_eq!(all[1]["takes_key"], false);
    assert_eq!(all[0]["machines"], serde_json::json!(["web"]));
    user.ok(&["image", "rm", "own"]);
    assert!(!user.image("own").exists());
}

#[test]
fn a_description_that_is_damaged_is_named() {
    let user = User::new("damaged");
    fs::write(user.vm("web").join("vm.json"), "{").unwrap();
    user.check(&["ls"], &["vm.json is damaged"]);
    user.check(&["start", "web"], &["vm.json is damaged"]);
    // It may be the one that needs the image.
    user.check(&["image", "rm", "debian"], &["vm.json is damaged"]);
}

/// What was killed while it made or removed a machine.
#[test]
fn leftovers_go_when_the_next_machine_is_made() {
    let user = User::new("leftovers");
    for name in [".new.1", ".old.web.1"] {
        fs::create_dir_all(user.vm(name)).unwrap();
        fs::write(user.vm(name).join("vm.json"), "{}").unwrap();
    }
    let held = user.vm(".new.2");
    fs::create_dir_all(&held).unwrap();
    let lock = fs::File::create(held.join("lock")).unwrap();
    lock.lock().unwrap();
    let _ = user
        .command(&["run", "debian", "--detach"])
        .output()
        .unwrap();
    assert!(!user.vm(".new.1").exists() && !user.vm(".old.web.1").exists());
    // Somebody is about to make this one.
    assert!(held.exists());
}

#[test]
fn shells_get_commands_options_and_names() {
    let user = User::new("completion");
    let complete = |words: &[&str]| {
        let last = (words.len() - 1).to_string();
        let mut command = user.command(&["--"]);
        let output = command
            .args(words)
            .env("TRAPEZE_COMPLETE", "bash")
            .env("_CLAP_COMPLETE_INDEX", last)
            .env("_CLAP_COMPLETE_COMP_TYPE", "9")
            .env("_CLAP_COMPLETE_SPACE", "true")
            .env("_CLAP_IFS", "\n")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(complete(&["trapeze", "cons"]), "console");
    assert!(complete(&["trapeze", "ssh", ""]).contains("web"));
    assert!(complete(&["trapeze", "run", "d"]).contains("debian"));
    assert!(complete(&["trapeze", "run", "x", "--disk"]).contains("--disk-size"));
    assert!(complete(&["trapeze", "system", "-ker"]).contains("-kernel"));
    let behind = complete(&["trapeze", "system", "-m", "1G", "-appe"]);
    assert!(behind.contains("-append"), "{behind}");
    assert_eq!(complete(&["trapeze", "img", "conv"]), "convert");
}

#[test]
fn the_manual_is_written() {
    let user = User::new("man");
    let folder = user.0.join("man/man1");
    user.ok(&["man", folder.to_str().unwrap()]);
    for page in ["trapeze.1", "trapeze-system.1", "trapeze-image-import.1"] {
        assert!(folder.join(page).is_file(), "{page}");
    }
}
