//! The options, one row each. Parser, `-help` and `docs/options.md` all come
//! from this table.

use super::parse::Options;
use super::{
    blockdev, board, chardev, debugger, device, drive, firmware, memory, monitor, netdev, numa,
    object, rtc, values as v,
};

/// What follows an option's name.
pub(crate) enum Shape {
    /// Nothing.
    Flag,
    /// One word, described by this.
    Value(&'static str),
}

use Shape::{Flag, Value};

/// One option.
pub(crate) struct Row {
    /// Name without the dash.
    pub(crate) name: &'static str,
    /// Other names.
    pub(crate) aliases: &'static [&'static str],
    /// What follows it.
    pub(crate) shape: Shape,
    /// Help, one sentence or two.
    pub(crate) help: &'static str,
    /// Puts the value into the options; the error says what is wrong with it
    /// and what would work.
    pub(crate) apply: fn(&mut Options, &str) -> Result<(), String>,
}

const fn row(
    name: &'static str,
    aliases: &'static [&'static str],
    shape: Shape,
    help: &'static str,
    apply: fn(&mut Options, &str) -> Result<(), String>,
) -> Row {
    Row {
        name,
        aliases,
        shape,
        help,
        apply,
    }
}

/// Every option.
#[rustfmt::skip]
pub(crate) const OPTIONS: &[Row] = &[
    row("help", &["h"], Flag, "print this help", v::help),
    row("version", &[], Flag, "print the version", v::version),
    row("machine", &["M"], Value("NAME[,accel=A:B][,PROPERTY=VALUE...]"), "the board: 'pc', an i440FX PC (the default), 'q35', with PCI Express, or 'microvm', without PCI; memory-backend=ID, mem-merge=on|off, dump-guest-core=on|off; 'help' lists, 'NAME,help' its properties", board::apply),
    row("accel", &[], Value("NAME[,PROPERTY]"), "soft, kvm or tcg (= soft); several are tried in the order given, kvm and then soft if none is ('trapeze check' says what works here); 'help' lists. soft,translate=off interprets every instruction; soft,tb-size=MIB is the room for translations (an eighth of the guest's RAM, but 96 to 256)", v::accel),
    row("enable-kvm", &[], Flag, "same as -accel kvm", |o, _| v::accel(o, "kvm")),
    row("cpu", &[], Value("MODEL[,+FEATURE][,-FEATURE][,FEATURE=on|off][,enforce]"), "the CPU the guest sees; 'max' is everything the accelerator offers (the default), but for invtsc: with an invariant TSC guests keep time by it instead of kvmclock; 'help' lists models and features", v::cpu),
    row("smp", &[], Value("[cpus=]N[,sockets=N][,cores=N][,threads=N][,maxcpus=N]"), "the processors (default 1); what is left out follows, cores rather than sockets", v::smp),
    row("m", &[], Value("[size=]SIZE"), "guest memory in MiB, or with suffix K, M, G or T (default 128M)", v::memory),
    row("object", &[], Value("TYPE,id=ID[,PROPERTY=VALUE...]"), "a memory backend for -machine memory-backend=ID or -numa node,memdev=ID: memory-backend-ram, memory-backend-file,mem-path=FILE|FOLDER (offset=) or memory-backend-memfd (hugetlb=, hugetlbsize=, seal=), each with size=SIZE, share=on|off, prealloc=on|off, reserve=on|off, merge=on|off (KSM; only anonymous memory), dump=on|off (in core dumps); or filter-dump,netdev=ID,file=FILE[,maxlen=BYTES], which writes a network's frames as pcap; 'help' lists, 'TYPE,help' its properties", object::apply),
    row("mem-path", &[], Value("FILE|FOLDER"), "memory is this file, made if it is missing, or a nameless file in the folder; of hugetlbfs in huge pages", memory::path),
    row("mem-prealloc", &[], Flag, "take all memory from the host at the start", memory::prealloc),
    row("numa", &[], Value("node|dist|cpu[,PROPERTY=VALUE...]"), "NUMA nodes, told through ACPI: node[,nodeid=N][,cpus=FIRST[-LAST]],memdev=ID (or mem=SIZE); dist,src=N,dst=N,val=DISTANCE; cpu,node-id=N[,socket-id=N][,core-id=N][,thread-id=N]", numa::apply),
    row("kernel", &[], Value("FILE"), "boot this Linux bzImage or PVH ELF file", v::kernel),
    row("initrd", &[], Value("FILE"), "initial RAM disk for -kernel", v::initrd),
    row("append", &[], Value("TEXT"), "command line for -kernel", v::append),
    row("drive", &[], Value("file=FILE,if=virtio[,PROPERTY=VALUE...]"), "a disk image: if=virtio adds a virtio disk for it, if=none leaves that to -device; id=, index=, format=raw|qcow2 (guessed if not given), cache=writeback|none|writethrough|directsync|unsafe, readonly=on|off, discard=unmap|ignore, rerror=report|ignore|stop, werror=enospc|report|ignore|stop (stop: the machine stops and tries again when it goes on; enospc: only for a full host), snapshot=on|off, aio=threads", drive::apply),
    row("blockdev", &[], Value("DRIVER,node-name=NAME[,PROPERTY=VALUE...]"), "an image for a -device that has drive=NAME: driver=file,filename=FILE; driver=raw or qcow2 with file=NODE or file.driver=file,file.filename=FILE; qcow2 also with backing=NODE or backing.driver=... in place of the backing file that the image names; cache.direct=, cache.no-flush=, read-only=, auto-read-only=on|off, discard=unmap|ignore; also as a JSON object", blockdev::apply),
    row("hda", &["hdb", "hdc", "hdd"], Value("FILE"), "a disk image as a virtio disk, since there is no IDE; the same as an argument without an option", drive::plain),
    row("snapshot", &[], Flag, "what guests write to -drive, -hda goes into temporary files (in $TMPDIR or /var/tmp) and is gone at the end", |o, _| { o.snapshot = true; Ok(()) }),
    row("device", &[], Value("MODEL[,PROPERTY=VALUE...]"), "a device of PCI or ISA; 'help' lists the models, 'MODEL,help' its properties", device::apply),
    row("balloon", &[], Value("none|virtio[,PROPERTY=VALUE...]"), "short for -device virtio-balloon-pci; none is the default", device::balloon::apply),
    row("fsdev", &[], Value("local,id=ID,path=DIR[,readonly=on|off]"), "a folder of the host for -device virtio-fs-pci,fsdev=ID,tag=TAG (in the guest: mount -t virtiofs TAG PLACE); all that the guest does there is done as the user who runs this; QEMU has vhost-user-fs-pci and a program of its own for it", device::fs::apply),
    row("nographic", &[], Flag, "COM1 and the monitor on the terminal; Ctrl-A X quits, Ctrl-A C changes between the two, Ctrl-A H lists the other keys", v::nographic),
    row("display", &[], Value("none"), "there is no display; COM1 is not shown unless -serial says so", v::display),
    row("serial", &[], Value("DEVICE"), "COM1 (then COM2, ...): stdio, mon:stdio (shared with the monitor), file:PATH, pipe:PATH, pty, unix:PATH, tcp:HOST:PORT or telnet:HOST:PORT (each with ,server=on|off,wait=on|off), chardev:ID, null (output is dropped) or none (no port)", v::serial),
    row("chardev", &[], Value("BACKEND,id=ID[,mux=on|off][,PROPERTY=VALUE...]"), "a host end that -serial chardev:ID, -mon or a -device names: stdio, null, pty, file with path=, pipe with path= (PATH.in and PATH.out, or one), ringbuf with size=, socket with path= (Unix) or host=, port= (TCP), server=on|off, wait=on|off (on: the machine starts when somebody has connected), telnet=on|off; mux=on: several share it, Ctrl-A C turns to the next; logfile=FILE: a copy of what goes out, logappend=on|off", chardev::apply),
    row("debugcon", &[], Value("DEVICE"), "bytes that the guest writes to port 0xe9 (isa-debugcon) go there; takes what -serial takes", chardev::debugcon),
    row("monitor", &[], Value("DEVICE|none"), "a monitor for people: 'help' there lists its commands; takes what -serial takes. A server takes several clients", monitor::monitor),
    row("qmp", &[], Value("DEVICE"), "a monitor for programs (QMP), as unix:PATH,server=on,wait=off", monitor::qmp),
    row("qmp-pretty", &[], Value("DEVICE"), "the same, indented", monitor::qmp_pretty),
    row("mon", &[], Value("[chardev=]ID[,mode=readline|control][,pretty=on|off]"), "a monitor on a -chardev; control is QMP", monitor::mon),
    row("parallel", &[], Value("none"), "there is no parallel port", v::only_none),
    row("vga", &[], Value("none"), "there is no graphics adapter", v::only_none),
    row("netdev", &[], Value("TYPE,id=ID[,PROPERTY=VALUE...]"), "a network for a -device virtio-net-pci,netdev=ID: user (the guest goes out through this process, which needs no rights; net=, host=, dns=, dhcpstart=, hostname=, domainname=, dnssearch=, ipv4=, ipv6=, ipv6-net=, ipv6-host=, ipv6-dns=, restrict=on|off, hostfwd=[tcp|udp]:[ADDR]:PORT-[ADDR]:PORT, guestfwd=[tcp]:ADDR:PORT-tcp:ADDR:PORT), tap (an interface of the host's; ifname=, queues=, fd=, fds=, script=FILE|no, downscript=FILE|no), vhost-user (another program, by shared memory; chardev=ID of a socket that it listens at, queues=), stream (another machine, or passt; server=on|off, addr.type=unix,addr.path= or addr.type=inet,addr.host=,addr.port= or addr.type=fd,addr.str=NUMBER, reconnect=SECONDS), dgram (a frame in each datagram; local.type= and remote.type=inet (host=,port=), unix (path=) or fd (str=); a remote.host= that is a group has all who are in it), socket (other machines; one of listen=[ADDR]:PORT, connect=ADDR:PORT, mcast=ADDR:PORT[,localaddr=ADDR], udp=ADDR:PORT,localaddr=ADDR:PORT, fd=NUMBER) or hubport (a port of the hub hubid=NUMBER, for an adapter or for netdev=ID)", netdev::apply),
    row("nic", &[], Value("none|TYPE[,model=virtio-net-pci][,mac=ADDR][,PROPERTY=VALUE...]"), "a network, as -netdev has them, and an adapter on it", netdev::nic),
    row("net", &[], Value("none|nic[,model=virtio-net-pci][,macaddr=ADDR][,vlan=N]|TYPE[,vlan=N][,PROPERTY=VALUE...]"), "an adapter, or a network as -netdev has them; those of the same number (default 0) meet: one of each, or any number at a hub", netdev::net),
    row("nodefaults", &[], Flag, "no serial port unless -serial asks for one", v::no_defaults),
    row("name", &[], Value("NAME"), "name of the guest, shown in messages", v::name),
    row("uuid", &[], Value("UUID"), "the machine's UUID, in SMBIOS and fw_cfg", firmware::uuid),
    row("smbios", &[], Value("type=N[,FIELD=VALUE...]"), "what SMBIOS tables of type 0, 1, 2, 3, 4, 11 or 17 say, as type=1,manufacturer=,product=,version=,serial=,uuid=,sku=,family=", firmware::smbios),
    row("fw_cfg", &[], Value("[name=]opt/NAME,file=FILE|string=TEXT"), "a file for the guest, below /sys/firmware/qemu_fw_cfg/by_name in Linux", firmware::fw_cfg),
    row("rtc", &[], Value("[base=utc|localtime|DATE][,clock=host][,driftfix=none]"), "what the RTC shows at the start (default utc), in UTC: 2006-06-17T16:01:21 or 2006-06-17", rtc::apply),
    row("pidfile", &[], Value("FILE"), "write the process's number into this file, which is removed at the end", |o, v| { o.pid_file = Some(v.into()); Ok(()) }),
    row("daemonize", &[], Flag, "run in the background: once the machine is set up the command returns, with exit code 0, or with 1 and a message if it cannot be; there is no terminal then, and files are made with umask 027 and the current folder is '/', as under QEMU; what the options name stays open", |o, _| { o.daemonize = true; Ok(()) }),
    row("gdb", &[], Value("DEVICE"), "a debugger, as gdb with 'target remote', can connect there, now and again: tcp:[ADDR]:PORT (127.0.0.1 without ADDR), unix:PATH,server=on,wait=off, stdio, pty, pipe:PATH, chardev:ID or none; docs/debugging.md says how", debugger::apply),
    row("s", &[], Flag, "same as -gdb tcp::1234", |o, _| debugger::apply(o, debugger::DEFAULT)),
    row("S", &[], Flag, "do not start the vCPUs: the monitor's 'cont' or a debugger (-gdb) does", |o, _| { o.stopped = true; Ok(()) }),
    row("no-shutdown", &[], Flag, "a guest that powers itself off leaves the machine stopped, until the user quits", |o, _| { o.config.no_shutdown = true; Ok(()) }),
    row("no-reboot", &[], Flag, "end instead of rebooting", v::no_reboot),
    row("action", &[], Value("EVENT=ACTION[,...]"), "reboot=reset|shutdown; shutdown=poweroff|pause; panic=none|pause|shutdown|exit-failure (default shutdown)", v::action),
    row("d", &[], Value("ITEM[,...]"), "log these items; 'help' lists", v::log_items),
    row("trace", &[], Value("[enable=]PATTERN[,file=FILE]"), "log records whose target, a module as virtio::blk, matches; '*' at the end matches the rest", v::trace),
    row("D", &[], Value("FILE"), "write what -d and -trace ask for to this file", v::log_file),
];
