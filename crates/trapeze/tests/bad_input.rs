//! Bad input gets one line that names the item, exit code 1, and no panic.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const TRAPEZE: &str = env!("CARGO_BIN_EXE_trapeze");

/// A folder for one test's files.
fn folder(test: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn file(test: &str, name: &str, content: &[u8]) -> String {
    let path = folder(test).join(name);
    File::create(&path).unwrap().write_all(content).unwrap();
    path.to_str().unwrap().to_string()
}

fn system(arguments: &[&str]) -> Output {
    Command::new(TRAPEZE)
        .arg("system")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Exactly one line of complaint with every one of `names` in it.
fn check(arguments: &[&str], names: &[&str]) {
    let output = system(arguments);
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {complaint}");
    assert_eq!(complaint.lines().count(), 1, "{arguments:?}: {complaint}");
    assert!(
        complaint.starts_with("trapeze: "),
        "{arguments:?}: {complaint}"
    );
    assert!(
        output.stdout.is_empty(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    for name in names {
        assert!(
            complaint.contains(name),
            "{arguments:?}: no '{name}' in: {complaint}"
        );
    }
}

#[test]
fn options_that_are_not_there() {
    check(&["-kernal", "x"], &["-kernal", "-help", "'kernel'"]);
    check(&["-vnc", ":1"], &["-vnc"]);
    check(&["--nographics"], &["--nographics", "'nographic'"]);
    check(&["disk.img"], &["-kernel FILE"]);
    check(&["-kernel"], &["-kernel", "FILE is missing"]);
}

#[test]
fn buses_and_slots_that_cannot_be() {
    check(&["-device", "virtio-rng-pci,addr=20"], &["addr=20", "0x1f"]);
    check(
        &["-device", "virtio-rng-pci,bus=pcie.0"],
        &["bus=pcie.0", "pci.0"],
    );
    check(
        &[
            "-device",
            "virtio-rng-pci,bus=br",
            "-device",
            "pci-bridge,id=br",
        ],
        &["bus=br", "before"],
    );
    check(
        &["-device", "pci-bridge,chassis_nr=256"],
        &["chassis_nr=256", "too large"],
    );
    check(
        &["-device", "pci-bridge,chassis_nr=1,shpc=on"],
        &["shpc=on", "there is no SHPC"],
    );
    check(
        &["-smp", "cpus=4,maxcpus=2,cores=2"],
        &["maxcpus=2", "cpus=4 must be 1 to 2"],
    );
}

#[test]
fn drives_and_devices_that_cannot_be() {
    let image = file("drives", "a.img", &[0; 4096]);
    let drive = |more: &str| format!("file={image}{more}");
    let none = drive(",if=none,id=a,format=raw");
    check(&["-drive", &drive("")], &["if= is missing", "if=virtio"]);
    check(&["-drive", "if=virtio"], &["file= is missing"]);
    check(
        &["-drive", &drive(",if=ide")],
        &["if=ide", "virtio or none"],
    );
    check(
        &["-drive", &drive(",fromat=raw")],
        &["'fromat'", "'format'"],
    );
    check(
        &["-drive", &drive(",if=virtio,cache=fast")],
        &["cache=fast", "writethrough"],
    );
    check(&["-drive", &none, "-drive", &none], &["two drives", "'a'"]);
    let first = drive(",if=virtio,index=0");
    check(&["-drive", &first, "-drive", &first], &["index=0"]);
    check(&["-drive", &drive(",if=none,id=1a")], &["id=1a", "letter"]);
    check(&["-device", "edu,id=a b"], &["id=a b", "letter"]);
    check(&["-smp", "2,sockest=2"], &["'sockest'", "'sockets'"]);
    check(
        &["-device", "virtio-bkl"],
        &["'virtio-bkl'", "'virtio-blk'"],
    );
    check(&["-device", "e1000"], &["'e1000'", "-device help"]);
    check(&["-device", "virtio-blk-pci"], &["drive= is missing"]);
    check(
        &["-device", "virtio-blk-pci,drive=b", "-drive", &none],
        &["no drive 'b'"],
    );
    check(
        &["-device", "virtio-rng-pci,drive=a"],
        &["'virtio-rng-pci.drive'"],
    );
    let twice = "virtio-blk-pci,drive=a";
    check(
        &["-drive", &none, "-device", twice, "-device", twice],
        &["'a' is in use"],
    );
    let same = "virtio-rng-pci,id=r";
    check(&["-device", same, "-device", same], &["two devices", "'r'"]);
    check(
        &[
            "-device",
            twice,
            "-drive",
            &none,
            "-device",
            "virtio-blk-pci,drive=a,serial=123456789012345678901",
        ],
        &["20 bytes"],
    );
}

#[test]
fn balloons_that_cannot_be() {
    let balloon = "virtio-balloon-pci";
    check(
        &["-device", balloon, "-balloon", "virtio"],
        &["one balloon"],
    );
    for (property, why) in [
        ("free-page-hint=on", "free-page-reporting"),
        ("page-poison=off", "cannot be turned off"),
        ("deflate-on-ooom=on", "'deflate-on-oom'"),
        ("deflate-on-oom=maybe", "neither on nor off"),
    ] {
        check(&["-device", &format!("{balloon},{property}")], &[why]);
        check(&["-balloon", &format!("virtio,{property}")], &[why]);
    }
    check(&["-balloon", "xen"], &["none or virtio"]);
    check(&["-balloon", "none,addr=3"], &["none or virtio"]);
}

#[test]
fn network_adapters_that_cannot_be() {
    let net = |property: &str, why: &[&str]| {
        check(&["-device", &format!("virtio-net-pci,{property}")], why);
    };
    net("netdev=n0", &["-device virtio-net-pci", "no netdev 'n0'"]);
    net("rss=on", &["rss=on", "not supported"]);
    net("vectors=0", &["1 to 2048"]);
    let mmio = ["-M", "microvm", "-device", "virtio-net-device,vectors=4"];
    check(&mmio, &["vectors=4", "no PCI"]);
    net("ctrl_vlan=on", &["ctrl_vlan=on", "not supported"]);
    net("csum=maybe", &["neither on nor off"]);
    net(
        "mrg_rxbfu=on",
        &["'virtio-net-pci.mrg_rxbfu'", "'mrg_rxbuf'"],
    );
    net("mac=52:54:00:12:34", &["six bytes"]);
    net("mac=+1:54:00:12:34:56", &["six bytes"]);
    net("mac=53:54:00:12:34:56", &["group"]);
    net("rx_queue_size=128", &["256 to 1024"]);
    net("tx_queue_size=300", &["256 to 1024"]);
    net("host_mtu=67", &["68"]);
    net("host_mtu=65536", &["too large"]);
    net("romfile=a.rom", &["boot ROM"]);
}

#[test]
fn folders_that_cannot_be_shared() {
    let path = folder("shared");
    let name = path.to_str().unwrap();
    let fsdev = |more: &str| format!("local,id=home,path={name}{more}");
    let with = |device: &str, why: &[&str]| {
        check(&["-fsdev", &fsdev(""), "-device", device], why);
    };
    with("virtio-fs-pci,tag=t", &["fsdev= is missing"]);
    with("virtio-fs-pci,fsdev=home", &["tag= is missing"]);
    with("virtio-fs-pci,fsdev=hom,tag=t", &["'hom'", "'home'"]);
    with(
        "virtio-fs-pci,fsdev=home,tga=t",
        &["'virtio-fs-pci.tga'", "'tag'"],
    );
    with("virtio-fs-pci,fsdev=home,tag=", &["1 to 36 bytes"]);
    let long = format!("virtio-fs-pci,fsdev=home,tag={}", "t".repeat(37));
    with(&long, &["1 to 36 bytes"]);
    with("virtio-fs-pci,num-request-queues=0", &["1 to 64"]);
    with("virtio-fs-pci,queue-size=100", &["power of two"]);
    with(
        "vhost-user-fs-pci,tag=t",
        &["-fsdev", "virtio-fs-pci,fsdev="],
    );
    with("virtio-fs-pic,tag=t", &["'virtio-fs-pci'"]);
    let same = "virtio-fs-pci,fsdev=home,tag=t";
    check(
        &["-fsdev", &fsdev(""), "-device", same, "-device", same],
        &["two devices", "'t'"],
    );
    check(&["-fsdev", &fsdev(""), "-fsdev", &fsdev("")], &["'home'"]);
    for (value, why) in [
        (fsdev(",readonly=maybe"), "neither on nor off"),
        (fsdev(",security_model=mapped"), "takes none"),
        (fsdev(",raedonly=on"), "'readonly'"),
        ("local,path=/".into(), "id= is missing"),
        ("local,id=a".into(), "path= is missing"),
        ("proxy,id=a".into(), "local"),
    ] {
        check(&["-fsdev", &value], &[why]);
    }
}

#[test]
fn folders_of_the_host_that_are_none() {
    let kernel = file("shares", "guest.elf", guest::ELF);
    let share = |path: &str, why: &str| {
        let fsdev = format!("local,id=a,path={path}");
        let device = ["-fsdev", &fsdev, "-device", "virtio-fs-pci,fsdev=a,tag=t"];
        check(&[&["-kernel", &kernel], &device[..]].concat(), &[path, why]);
    };
    share("/nonexistent/folder", "no such file");
    share(&kernel, "not a directory");
    let locked = folder("shares/locked");
    let mode = std::fs::Permissions::from_mode(0o000);
    std::fs::set_permissions(&locked, mode).unwrap();
    // Root reads it all the same.
    if File::open(&locked).is_err() {
        share(locked.to_str().unwrap(), "permission denied");
    }
}

#[test]
fn ports_and_sockets_that_cannot_be() {
    let device = ["-device", "virtio-serial", "-chardev", "null,id=n"];
    let with = |port: &str, why: &[&str]| {
        check(&[&device[..], &["-device", port]].concat(), why);
    };
    check(&["-device", "virtconsole"], &["no virtio-serial device"]);
    let log = |properties: &str, why: &[&str]| {
        check(&["-chardev", &format!("null,id=l,{properties}")], why);
    };
    log("logfil=x", &["did you mean 'logfile'"]);
    log("logappend=on", &["for logfile="]);
    log("logfile=", &["logfile= is empty"]);
    with("virtconsole", &["chardev= is missing"]);
    with("virtserialport,chardev=m", &["no chardev 'm'", "'n'"]);
    with("virtserialport,chardev=n,nr=0", &["for a virtconsole"]);
    with("virtserialport,chardev=n,nr=31", &["31 ports"]);
    with("virtserialport,chardev=n,bus=x.0", &["no virtio-serial"]);
    with("virtserialport,chardev=n,nmae=x", &["'name'"]);
    with("virtserialport,chardev=n,name=a/b", &["without a slash"]);
    with("virtconsoel", &["'virtconsole'"]);
    check(
        &["-device", "virtio-serial,max_ports=32"],
        &["takes 1 to 31"],
    );
    let port = "virtserialport,chardev=n,nr=2";
    let twice = ["-device", port, "-device", port];
    check(&[&device[..], &twice].concat(), &["nr=2: another port"]);
    let same = [
        "-device",
        "virtserialport,chardev=n,id=a",
        "-device",
        "edu,id=a",
    ];
    check(&[&device[..], &same].concat(), &["two devices", "'a'"]);
    for (chardev, why) in [
        ("socket,id=a", "path= is missing"),
        ("socket,id=a,path=/x,wait=on", "server=on"),
        ("socket,id=a,path=/x,server=perhaps", "neither on nor off"),
        ("socket,id=a,port=70000", "from 0 to 65535"),
        ("socket,id=a,host=localhost", "port= is missing"),
        ("socket,id=a,path=/x,port=5", "not both"),
        ("socket,id=a,path=/x,telnet=on", "server=on"),
        ("ringbuf,id=a,size=1000", "power of two"),
        ("scoket,id=a", "'socket'"),
    ] {
        check(&["-chardev", chardev], &[why]);
    }
}

#[test]
fn monitors_that_cannot_be() {
    for (options, why) in [
        (
            &["-monitor", "vc"][..],
            &["-monitor vc", "not supported"][..],
        ),
        (&["-qmp", "tcp:5"], &["-qmp tcp:5", "HOST:PORT"]),
        (&["-qmp", "unix:/x,delay=on"], &["no property 'delay'"]),
        (&["-mon", "mode=control"], &["chardev= is missing"]),
        (&["-mon", "c,mode=perhaps"], &["readline or control"]),
        (&["-mon", "c"], &["there is no chardev 'c'"]),
        (
            &["-monitor", "stdio", "-serial", "stdio"],
            &["have the terminal", "mon:stdio"],
        ),
    ] {
        check(options, why);
    }
    let kernel = file("monitors", "guest.elf", guest::ELF);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{},server=on,wait=off", taken.local_addr().unwrap());
    check(
        &["-kernel", &kernel, "-display", "none", "-qmp", &address],
        &["tcp:127.0.0.1", "in use"],
    );
    check(
        &[
            "-kernel",
            &kernel,
            "-display",
            "none",
            "-qmp",
            "unix:/nonexistent/q,server=on,wait=off",
        ],
        &["unix:/nonexistent/q", "No such file"],
    );
}

#[test]
fn test_devices_and_chardevs_that_cannot_be() {
    check(&["-device", "isa-debug-exti"], &["'isa-debug-exit'"]);
    check(
        &["-device", "isa-debug-exit,iobase=0x10000"],
        &["iobase=0x10000", "too large"],
    );
    check(
        &["-device", "isa-debug-exit,iosize=many"],
        &["iosize=many", "not a number"],
    );
    check(
        &["-device", "isa-debug-exit,addr=5"],
        &["'isa-debug-exit.addr'"],
    );
    check(&["-device", "isa-debugcon"], &["chardev= is missing"]);
    check(
        &["-device", "isa-debugcon,chardev=x", "-chardev", "null,id=y"],
        &["no chardev 'x'", "'y'"],
    );
    check(&["-device", "edu,dma_mask=-1"], &["dma_mask=-1"]);
    check(
        &["-device", "pci-testdev,membar=1M"],
        &["'pci-testdev.membar'"],
    );
    check(
        &["-chardev", "spicevmc,id=a"],
        &[
            "'spicevmc'",
            "stdio, file, pipe, socket, pty, ringbuf, null",
        ],
    );
    check(&["-chardev", "null"], &["id= is missing"]);
    check(&["-chardev", "file,id=a"], &["path= is missing"]);
    check(&["-chardev", "null,id=a,path=x"], &["no property 'path'"]);
    let twice = "null,id=a";
    check(&["-chardev", twice, "-chardev", twice], &["two chardevs"]);
    check(
        &[
            "-chardev",
            twice,
            "-serial",
            "chardev:a",
            "-serial",
            "chardev:a",
        ],
        &["chardev 'a' is in use"],
    );
    check(
        &["-serial", "stdio", "-debugcon", "stdio"],
        &["isa-debugcon", "terminal"],
    );
    let kernel = file("testdevs", "guest.elf", guest::ELF);
    let exits = ["isa-debug-exit,iobase=0xf4", "isa-debug-exit,iobase=0xf5"];
    check(
        &["-kernel", &kernel, "-device", exits[0], "-device", exits[1]],
        &["isa-debug-exit", "0xf5", "another device"],
    );
    check(
        &["-kernel", &kernel, "-device", "isa-debug-exit,iosize=0"],
        &["isa-debug-exit", "0 ports"],
    );
}

#[test]
fn what_the_machine_cannot_tell() {
    check(&["-uuid", "1234"], &["-uuid 1234", "not a UUID"]);
    check(
        &["-uuid", "01234567-89ab-cdef-0123-456789abcdeg"],
        &["not a UUID"],
    );
    check(&["-smbios", "file=x"], &["file=", "not supported"]);
    check(&["-smbios", "manufacturer=x"], &["type= is missing"]);
    check(&["-smbios", "type=9,x=y"], &["type=9", "0, 1, 2, 3"]);
    check(
        &["-smbios", "type=1,prodct=x"],
        &["'prodct'", "'product'", "family"],
    );
    check(&["-smbios", "type=4,max-speed=fast"], &["max-speed=fast"]);
    check(&["-smbios", "type=1,uuid=0"], &["uuid=0", "not a UUID"]);
    check(&["-fw_cfg", "name=opt/a"], &["file= and string="]);
    check(&["-fw_cfg", "string=x"], &["name= is missing"]);
    check(&["-fw_cfg", "name=etc/e820,string=x"], &["opt/"]);
    check(
        &["-fw_cfg", "name=opt/a,string=x,file=y"],
        &["one of file= and string="],
    );
    check(&["-fw_cfg", "name=opt/a,gen_id=x"], &["'gen_id'"]);
    let kernel = file("fw_cfg", "guest.elf", guest::ELF);
    let with = |value: &str, names: &[&str]| {
        check(
            &["-kernel", &kernel, "-fw_cfg", value, "-fw_cfg", value],
            names,
        );
    };
    with("name=opt/a,string=x", &["'opt/a'", "of this name"]);
    with(
        "name=opt/a,file=/nonexistent/f",
        &["'opt/a'", "no such file"],
    );
    with(
        &format!("name=opt/{},string=x", "n".repeat(52)),
        &["55 bytes"],
    );
}

#[test]
fn policies_and_nodes_of_disks_that_cannot_be() {
    let image = file("nodes", "a.img", &[0; 4096]);
    let drive = |more: &str| format!("file={image}{more}");
    let none = drive(",if=none,id=a,format=raw");
    check(
        &["-drive", &drive(",if=virtio,werror=halt")],
        &["werror=halt", "enospc"],
    );
    check(
        &["-drive", &drive(",if=virtio,rerror=enospc")],
        &["rerror=enospc", "report, ignore or stop"],
    );
    check(
        &["-drive", &drive(",if=virtio,aio=native")],
        &["aio=native", "threads"],
    );
    let node = format!("driver=file,node-name=a,filename={image}");
    check(
        &["-blockdev", &node, "-drive", &none],
        &["-blockdev", "'a' is the id of a drive"],
    );
    check(
        &["-blockdev", &node, "-device", "virtio-blk-pci,drive=b"],
        &["no drive 'b'", "'a'"],
    );
}

#[test]
fn lockstep_has_conditions() {
    let lockstep = |more: &[&str], names: &[&str]| {
        check(&[&["-d", "lockstep"], more].concat(), names);
    };
    lockstep(&["-smp", "2"], &["-d lockstep", "-smp asks for 2"]);
    lockstep(&["-accel", "kvm"], &["-d lockstep", "-accel soft"]);
    let off = ["-accel", "soft,translate=off"];
    lockstep(&off, &["-d lockstep", "translate=off"]);
}

#[test]
fn values_that_are_not_there() {
    check(&["-accel", "hvf"], &["-accel hvf", "soft, kvm, tcg"]);
    check(&["-accel", "kmv"], &["'kvm'", "soft, kvm, tcg"]);
    check(&["-accel", "soft,thread=multi"], &["thread=multi"]);
    for size in ["0", "1025", "-1", "x", "", "18446744073709551617"] {
        let accel = format!("soft,tb-size={size}");
        check(
            &["-accel", &accel],
            &[&format!("tb-size={size}"), "1 to 1024"],
        );
    }
    check(&["-accel", "kvm,tb-size=64"], &["tb-size=64"]);
    check(
        &["-M", "isapc"],
        &["-machine isapc", "'isapc'", "there are pc, q35, microvm"],
    );
    check(&["-M", "pc-q35-9.2"], &["'pc-q35-10.0'"]);
    check(&["-machine", "trapeze,usb=on"], &["usb=on", "no USB"]);
    check(&["-machine", "q35,sato=on"], &["'sato'", "'sata'"]);
    check(&["-machine", "q35,sata"], &["sata="]);
    check(&["-cpu", "Nehalm"], &["'Nehalm'", "'Nehalem'"]);
    check(&["-cpu", "max,-avx3"], &["'avx3'", "'avx'"]);
    check(&["-cpu", "max,avx"], &["'avx'", "+FEATURE"]);
    check(&["-display", "gtk"], &["-display gtk", "none"]);
    check(&["-serial", "vc"], &["-serial vc", "file:PATH"]);
    check(
        &["-action", "panic=explode"],
        &["panic=explode", "exit-failure"],
    );
    check(&["-d", "countres"], &["'countres'", "'counters'"]);
}

#[test]
fn numbers_of_cpus() {
    for count in ["0", "-1", "many", "", "1,cores=2", "2,sockets=3"] {
        check(&["-smp", count], &["-smp"]);
    }
    let kernel = file("cpus", "guest.elf", guest::ELF);
    check(&["-smp", "100000", "-kernel", &kernel], &["100000 vCPUs"]);
}

#[test]
fn sizes_of_memory() {
    check(&["-m", "0"], &["-m 0", "1G"]);
    for garbage in ["", "lots", "1X", "-5", "1G,slots=2", "99999999999999999999"] {
        check(&["-m", garbage], &["-m"]);
    }
    let kernel = file("memory", "guest.elf", guest::ELF);
    // Far more than any x86 CPU's 52 physical address bits.
    check(&["-m", "8192T", "-kernel", &kernel], &["memory"]);
}

#[test]
fn kernels() {
    check(&["-nographic"], &["-kernel FILE"]);
    check(
        &["-kernel", "/nonexistent/vmlinuz"],
        &["kernel '/nonexistent/vmlinuz'"],
    );
    check(&["-kernel", "/"], &["kernel '/'"]);
    let text = file("kernels", "text", &b"not a kernel\n".repeat(500));
    check(&["-kernel", &text], &["kernel", &text]);
    let empty = file("kernels", "empty", b"");
    check(&["-kernel", &empty], &["kernel", &empty]);
    for length in [10, 100, guest::ELF.len() / 2] {
        let cut = file("kernels", &format!("cut-{length}"), &guest::ELF[..length]);
        check(&["-kernel", &cut], &["kernel", &cut]);
    }
}

#[test]
fn a_truncated_linux_kernel() {
    // A boot sector that promises more than the file holds (Linux,
    // Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").
    let mut image = vec![0u8; 1024];
    image[0x1f1] = 30;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
    image[0x211] = 1;
    let kernel = file("truncated", "bzImage", &image);
    check(&["-kernel", &kernel], &["kernel", &kernel]);
}

#[test]
fn initial_ram_disks() {
    let kernel = file("initrds", "guest.elf", guest::ELF);
    check(
        &["-kernel", &kernel, "-initrd", "/nonexistent/i"],
        &["initrd '/nonexistent/i'"],
    );
    let large = folder("initrds").join("large");
    File::create(&large).unwrap().set_len(256 << 20).unwrap();
    let large = large.to_str().unwrap();
    check(
        &["-m", "64", "-kernel", &kernel, "-initrd", large],
        &["initrd", large],
    );
}

#[test]
fn files_that_cannot_be_written() {
    let kernel = file("files", "guest.elf", guest::ELF);
    check(
        &["-kernel", &kernel, "-serial", "file:/nonexistent/log"],
        &["/nonexistent/log"],
    );
    check(
        &["-kernel", &kernel, "-serial", "file:/"],
        &["serial", "'/'"],
    );
    check(
        &["-kernel", &kernel, "-D", "/nonexistent/log"],
        &["-D /nonexistent/log"],
    );
    check(&["-serial", "stdio", "-serial", "stdio"], &["-serial"]);
    check(&["-serial", "none", "-serial", "stdio"], &["-serial none"]);
}

#[test]
fn a_link_with_qemus_name_speaks_for_itself() {
    for name in ["qemu-system-x86_64", "qemu-kvm", "kvm"] {
        let link = folder("links").join(name);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(TRAPEZE, &link).unwrap();
        let version = Command::new(&link).arg("-version").output().unwrap();
        assert_eq!(version.status.code(), Some(0));
        let text = String::from_utf8(version.stdout).unwrap();
        assert!(text.contains("emulator version"), "{text}");
        let bad = Command::new(&link).args(["-m", "0"]).output().unwrap();
        assert_eq!(bad.status.code(), Some(1));
        assert!(bad.stderr.starts_with(format!("{name}: -m 0: ").as_bytes()));
    }
}

#[test]
fn help_and_lists_are_no_errors() {
    for (arguments, text) in [
        (&["-help"][..], "-kernel FILE"),
        (&["-accel", "help"], "soft"),
        (&["-M", "help"], "pc-q35-10.0"),
        (&["-M", "q35,help"], "mem-merge=<bool>"),
        (&["-machine", "pc,help"], "hpet=off"),
        (&["-object", "help"], "memory-backend-ram"),
        (&["-object", "memory-backend-file,help"], "mem-path=<str>"),
        (&["-smp", "help"], "maxcpus="),
        (&["-rtc", "help"], "base=utc"),
        (&["-drive", "help"], "file=FILE"),
        (&["-blockdev", "help"], "backing=NODE"),
        (&["-trace", "help"], "virtio::blk"),
        (&["-cpu", "help"], "max"),
        (&["-d", "help"], "counters"),
        (&["-device", "help"], "name \"edu\", bus PCI"),
        (&["-device", "edu,help"], "dma_mask=<uint64>"),
        (&["-device", "isa-debug-exit,help"], "iobase=<uint32>"),
        (&["-chardev", "help"], "stdio"),
    ] {
        let output = system(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(
            String::from_utf8(output.stdout).unwrap().contains(text),
            "{arguments:?}"
        );
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn clocks_and_files_that_cannot_be() {
    check(
        &["-rtc", "base=2023-02-29"],
        &["base=2023-02-29", "localtime"],
    );
    check(&["-rtc", "clock=vm"], &["clock=vm", "clock=host"]);
    check(&["-rtc", "driftfix=slew"], &["driftfix=slew"]);
    check(&["-rtc", "bases=utc"], &["'bases'", "'base'"]);
    check(&["-s", "-gdb", "tcp::1"], &["-gdb tcp::1", "only one"]);
    check(&["-gdb", "nothing"], &["-gdb nothing", "unix:PATH"]);
    check(&["-action", "shutdown=off"], &["shutdown", "pause"]);
    check(
        &["-kernel", "/dev/null", "-pidfile", "/no/such/pid"],
        &["-pidfile /no/such/pid", "No such file"],
    );
    // It is gone after the end, also after a bad one.
    let path = folder("pidfile").join("pid");
    let text = path.to_str().unwrap();
    check(&["-kernel", "/dev/null", "-pidfile", text], &["/dev/null"]);
    assert!(!path.exists());
    let held = File::create(&path).unwrap();
    held.lock().unwrap();
    check(
        &["-kernel", "/dev/null", "-pidfile", text],
        &["another process"],
    );
    assert!(path.exists());
}

#[test]
fn nodes_that_cannot_be() {
    check(&["-numa", "nude"], &["'nude'", "'node'"]);
    check(&["-numa", "node,mems=1"], &["'mems'", "'mem'"]);
    check(&["-numa", "node,nodeid=1,mem=128M"], &["no node 0"]);
    check(&["-numa", "node"], &["0 bytes", "128 MiB"]);
    check(
        &["-numa", "node,memdev=x"],
        &["memdev=x", "no memory backend"],
    );
    check(&["-numa", "node,nodeid=128"], &["nodeid=128", "0 to 127"]);
    check(&["-numa", "node,cpus=3-1"], &["cpus=3-1"]);
    check(&["-numa", "node,mem=128,cpus=0-1"], &["no CPU 1", "-smp"]);
    let two = ["-numa", "node,mem=64,cpus=0", "-numa", "node,mem=64"];
    let with = |more: &[&str], names: &[&str]| check(&[&two[..], more].concat(), names);
    with(&["-numa", "node,nodeid=1"], &["node 1 already"]);
    with(
        &["-numa", "cpu,node-id=1,socket-id=0"],
        &["CPU 0", "0 and 1"],
    );
    with(&["-numa", "cpu,node-id=1,core-id=7"], &["no CPU is there"]);
    with(
        &["-numa", "dist,src=0,dst=1,val=9"],
        &["val=9", "at least 10"],
    );
    with(&["-numa", "dist,src=0,dst=0,val=11"], &["itself is 10"]);
    with(&["-numa", "dist,src=0,dst=2,val=20"], &["no node 2"]);
    with(
        &["-numa", "dist,src=0,dst=0,val=10"],
        &["0 and 1", "missing"],
    );
}

#[test]
fn memory_that_cannot_be() {
    check(
        &["-object", "memory-backend-rem,id=a"],
        &["memory-backend-rem", "'memory-backend-ram'"],
    );
    check(
        &["-object", "memory-backend-ram,id=a"],
        &["size= is missing"],
    );
    let with = |object: &'static str, names: &[&str]| {
        check(&["-object", object, "-M", "memory-backend=a"], names);
    };
    with("memory-backend-ram,size=1G", &["id= is missing"]);
    with(
        "memory-backend-file,id=a,size=1G",
        &["mem-path= is missing"],
    );
    with(
        "memory-backend-ram,id=a,size=1G,host-nodes=0",
        &["host-nodes=0", "nodes of the host"],
    );
    with(
        "memory-backend-ram,id=a,size=1G,mem-path=/tmp",
        &["no property 'mem-path'"],
    );
    with(
        "memory-backend-memfd,id=a,size=1G,merge=on",
        &["merge=on", "memory-backend-memfd"],
    );
    with(
        "memory-backend-file,id=a,size=1G,mem-path=/tmp,merge=on",
        &["merge=on", "memory-backend-file"],
    );
    with(
        "memory-backend-memfd,id=a,size=1G,hugetlbsize=3M",
        &["hugetlbsize=3M", "power of two"],
    );
    with(
        "memory-backend-ram,id=b,size=1G",
        &["memory-backend=a", "no memory backend 'a'", "'b'"],
    );
    let object = ["-object", "memory-backend-ram,id=a,size=1G"];
    check(&object, &["nothing uses memory backend 'a'"]);
    let both = [&object[..], &["-M", "memory-backend=a", "-m", "2G"]].concat();
    check(&both, &["2 GiB", "1 GiB"]);
    let twice = [&object[..], &object].concat();
    check(&twice, &["two objects", "'a'"]);
    check(
        &["-kernel", "/dev/null", "-mem-path", "/no/such/folder"],
        &["/no/such/folder", "No such file"],
    );
    check(
        &["-mem-path", "/tmp", "-M", "mem-merge=on"],
        &["mem-merge=on", "-mem-path"],
    );
    check(&["-M", "mem-marge=on"], &["mem-marge", "'mem-merge'"]);
}
