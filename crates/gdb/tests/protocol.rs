//! What debuggers may send, byte for byte, to a machine with a small guest. The
//! answers are those of GDB's manual, "GDB Remote Serial Protocol"; where it leaves
//! the choice they are QEMU's.

mod place;

use machine::{Outcome, RunState};
use place::{BASE, COUNTER, Client, FAULT, HANDLER, LOOP, OUT, RIP, Scene};

/// A debugger that has introduced itself and needs no acknowledgements.
fn met(scene: &Scene) -> Client {
    let mut client = scene.connect();
    let features = client.ask("qSupported:multiprocess+;swbreak+;hwbreak+");
    for feature in ["PacketSize=", "swbreak+", "hwbreak+", "QStartNoAckMode+"] {
        assert!(features.contains(feature), "{features}");
    }
    client.check("QStartNoAckMode", "OK");
    client
}

/// The same with the guest in its loop, about to count.
fn at_loop(scene: &Scene) -> Client {
    let mut client = met(scene);
    client.check(&format!("Z1,{LOOP:x},1"), "OK");
    client.packet("vCont;c");
    assert!(client.answer().contains("hwbreak:;"));
    client.check(&format!("z1,{LOOP:x},1"), "OK");
    assert_eq!(client.register(RIP), LOOP);
    client
}

#[test]
fn introductions() {
    let scene = Scene::new();
    let mut client = scene.connect();
    client.packet("qSupported:multiprocess+");
    assert_eq!(client.signal(), b'+');
    assert!(client.answer().contains("qXfer:features:read+"));
    scene.wait_for(RunState::Debug);
    client.check("QStartNoAckMode", "OK");
    client.packet("?");
    // From now on there are no acknowledgements.
    assert_eq!(client.signal(), b'$');
}

#[test]
fn threads_are_vcpus() {
    let scene = Scene::new();
    let mut client = met(&scene);
    client.check("qfThreadInfo", "mp01.01,p01.02");
    client.check("qsThreadInfo", "l");
    client.check("Tp1.2", "OK");
    client.check("Tp1.3", "E01");
    client.check("Hgp1.2", "OK");
    // It waits to be started.
    assert_eq!(client.register(RIP), 0xfff0);
    client.check("Hgp1.9", "OK");
    client.check("g", "E0e");
    client.check("Hgp1.1", "OK");
    assert_ne!(client.register(RIP), 0xfff0);
    assert!(client.ask("?").starts_with("T05thread:p01.01;"));
}

#[test]
fn unknown_packets_get_an_empty_answer() {
    let scene = Scene::new();
    let mut client = met(&scene);
    for packet in [
        "",
        "vMustReplyEmpty",
        "vFile:open:2f,0,0",
        "qNonsense",
        "Z5,0,1",
        "!",
        "QNonStop:1",
        "bc",
        "\u{7f}",
    ] {
        client.check(packet, "");
    }
}

#[test]
fn memory() {
    let scene = Scene::new();
    let mut client = met(&scene);
    client.check(&format!("m{BASE:x},4"), "02b0ad1b");
    client.check(&format!("M{COUNTER:x},4:01020304"), "OK");
    client.check(&format!("m{COUNTER:x},4"), "01020304");
    client.check(&format!("X{COUNTER:x},2:ab"), "OK");
    client.check(&format!("m{COUNTER:x},4"), "61620304");
    client.check(&format!("m{BASE:x},0"), "");
    // RAM ends at 8 MiB; what is there is answered, as the manual allows.
    client.check("m7ffffe,8", "0000");
    client.check("m800000,1", "E0e");
    client.check("M7fffff,2:0000", "E0e");
    for nonsense in [
        "mffffffffffffffff,2",
        "m100000,ffffffff",
        "m100000,ffffffffffffffff",
        "m100000",
        "m,",
        "m11111111111111111,1",
        "M100000,4:01",
        "M100000,1:0102",
        "X100000,2:a",
        "M11111111111111111,1:00",
        "M100000,1:zz",
    ] {
        let said = client.ask(nonsense);
        assert!(
            said.starts_with('E') || said.is_empty(),
            "{nonsense}: {said}"
        );
    }
    // None of them has changed anything.
    client.check(&format!("m{BASE:x},4"), "02b0ad1b");
}

#[test]
fn registers() {
    let scene = Scene::new();
    let mut client = at_loop(&scene);
    let all = client.ask("g");
    client.check(&format!("G{all}"), "OK");
    assert_eq!(client.ask("g"), all);
    client.check(&format!("G{}", &all[..20]), "E16");
    client.check(&format!("G{all}00"), "E16");
    client.set_register(0, 0x1122_3344);
    assert_eq!(client.register(0), 0x1122_3344);
    client.check("P0=00", "E16");
    client.check("pffff", "");
    let xml = client.ask("qXfer:features:read:target.xml:0,fff");
    assert!(xml.contains("org.gnu.gdb.i386.core"), "{xml}");
    // The upper half of YMM0 follows MXCSR in the description.
    let upper = 40 + 16 + 1;
    let value = "000102030405060708090a0b0c0d0e0f";
    client.check(&format!("P{upper:x}={value}"), "OK");
    client.check(&format!("p{upper:x}"), value);
    client.check(&format!("p{:x}", upper + 1), &"0".repeat(32));
}

#[test]
fn breakpoints_of_every_kind() {
    let scene = Scene::new();
    let mut client = at_loop(&scene);
    for (kind, at, says) in [
        (0, OUT, "swbreak:;"),
        (1, OUT, "hwbreak:;"),
        (2, COUNTER, "watch:"),
        (3, COUNTER, "rwatch:"),
        (4, COUNTER, "awatch:"),
    ] {
        client.check(&format!("Z{kind},{at:x},1"), "OK");
        client.packet("vCont;c");
        let said = client.answer();
        assert!(said.contains(says), "Z{kind}: {said}");
        assert_eq!(client.register(RIP), OUT, "Z{kind}");
        client.check(&format!("z{kind},{at:x},1"), "OK");
        // The memory is as it was.
        client.check(&format!("m{OUT:x},2"), "e680");
        client.packet("vCont;s:p1.1;c");
        client.answer();
        client.packet("vCont;s:p1.1;c");
        client.answer();
        assert_eq!(client.register(RIP), LOOP, "Z{kind}");
    }
    let said = client.ask(&format!("Z2,{COUNTER:x},ffffffffffffffff"));
    assert!(said.starts_with('E'), "{said}");
    for n in 0..4 {
        client.check(&format!("Z1,{n:x},1"), "OK");
    }
    let said = client.ask("Z1,5,1");
    assert!(said.starts_with('E'), "a fifth: {said}");
}

#[test]
fn ways_to_go_on() {
    let scene = Scene::new();
    let mut client = at_loop(&scene);
    let actions = client.ask("vCont?");
    for action in ["c", "s", "r"] {
        assert!(actions.split(';').any(|a| a == action), "{actions}");
    }
    // A range is left where it ends.
    client.packet(&format!("vCont;r{LOOP:x},{:x}:p1.1", OUT + 2));
    assert!(client.answer().starts_with("T05"));
    assert_eq!(client.register(RIP), OUT + 2);
    client.packet("s");
    assert!(client.answer().starts_with("T05"));
    assert_eq!(client.register(RIP), LOOP);
    for nonsense in ["vCont;", "vCont;x", "vCont;c:p1.zz", "vCont;r1"] {
        let said = client.ask(nonsense);
        assert!(
            said.starts_with('E') || said.is_empty(),
            "{nonsense}: {said}"
        );
        assert_eq!(scene.handle.run_state(), RunState::Debug, "{nonsense}");
    }
    client.packet("vCont;c");
    scene.counts();
    client.send(b"\x03");
    assert!(client.answer().starts_with("T02"));
    scene.wait_for(RunState::Debug);
    // One that comes too early is for when it goes on.
    client.send(b"\x03");
    client.check("vMustReplyEmpty", "");
    client.packet("vCont;c");
    assert!(client.answer().starts_with("T02"));
    scene.wait_for(RunState::Debug);
}

#[test]
fn the_monitor() {
    let scene = Scene::new();
    let mut client = met(&scene);
    // "info version"
    client.packet("qRcmd,696e666f2076657273696f6e");
    let said = client.answer();
    let text: String = said.as_bytes()[1..]
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .map(char::from)
        .collect();
    assert_eq!(text, "you said 'info version'\n");
    assert_eq!(client.answer(), "OK");
    let said = client.ask("qRcmd,6z");
    assert!(said.starts_with('E') || said.is_empty(), "{said}");
}

#[test]
fn what_arrives_broken() {
    let scene = Scene::new();
    let mut client = scene.connect();
    client.send(b"$?#00");
    assert_eq!(client.signal(), b'-');
    client.packet("?");
    assert_eq!(client.signal(), b'+');
    let first = client.answer();
    client.send(b"-");
    assert_eq!(client.signal(), b'$');
    client.send(b"-");
    assert_eq!(client.answer(), first);
    client.check("QStartNoAckMode", "OK");
    // A packet that is longer than any, and one that does not end.
    client.send(&[&b"$"[..], &[b'x'; 100_000]].concat());
    client.send(b"#00$m0,$qC");
    client.check("vMustReplyEmpty", "");
    // What the protocol's crate gives up on leaves the rest as it was.
    client.check("Hgp1.2", "OK");
    client.check("m11111111111111111,1", "E16");
    assert_eq!(client.register(RIP), 0xfff0);
    client.send(b"+++\xff\xfe\n\0");
    client.check("vMustReplyEmpty", "");
}

#[test]
fn who_vanishes_leaves_the_machine_as_it_was() {
    let scene = Scene::new();
    let mut client = at_loop(&scene);
    client.check(&format!("Z0,{FAULT:x},1"), "OK");
    client.packet("vCont;c");
    scene.counts();
    client.send(b"$m100");
    drop(client);
    scene.counts();
    scene.wait_for(RunState::Running);
    // The breakpoint is gone: this one sees the guest's own memory.
    let mut client = met(&scene);
    scene.wait_for(RunState::Debug);
    client.check(&format!("m{FAULT:x},2"), "0f0b");
    let stands = scene.counted();
    drop(client);
    let mut client = met(&scene);
    assert_eq!(scene.counted(), stands, "it stays stopped");
    client.check("D", "OK");
    assert_eq!(client.next(), None);
    scene.wait_for(RunState::Running);
    scene.counts();
}

#[test]
fn who_kills_ends_the_machine() {
    for (packet, answered) in [("vKill;1", true), ("k", false)] {
        let scene = Scene::new();
        let mut client = met(&scene);
        client.packet(packet);
        if answered {
            assert_eq!(client.answer(), "OK");
        }
        assert_eq!(scene.outcome(), Outcome::Quit, "{packet}");
    }
}

#[test]
fn the_second_debugger_waits_for_the_first_to_leave() {
    let scene = Scene::new();
    let mut first = met(&scene);
    let mut second = scene.connect();
    second.packet("qSupported:multiprocess+");
    first.check("vMustReplyEmpty", "");
    first.check("D;1", "OK");
    assert!(second.answer().contains("PacketSize="));
    scene.wait_for(RunState::Debug);
    second.packet("k");
    assert_eq!(second.next(), None);
    assert_eq!(scene.outcome(), Outcome::Quit);
}

#[test]
fn a_guest_that_has_not_started() {
    let scene = Scene::with(engine::Options::default(), |handle| handle.hold());
    let mut client = met(&scene);
    assert_eq!(scene.handle.run_state(), RunState::Prelaunch);
    assert_eq!(client.register(RIP), BASE + 0x20);
    assert_eq!(scene.counted(), 0);
    client.packet("vCont;c");
    scene.counts();
    scene.handle.quit();
    assert_eq!(scene.outcome(), Outcome::Quit);
    assert_eq!(client.answer(), "W05");
}

/// In generated code and without.
fn engines() -> [engine::Options; 2] {
    [true, false].map(|translate| engine::Options {
        translate,
        ..Default::default()
    })
}

#[test]
fn a_step_into_an_exception_ends_where_the_handler_begins() {
    for options in engines() {
        let scene = Scene::with(options, |_| {});
        let mut client = at_loop(&scene);
        client.set_register(RIP, FAULT);
        for expected in [HANDLER, HANDLER + 1, HANDLER + 2, HANDLER] {
            client.packet("vCont;s:p1.1");
            assert!(client.answer().starts_with("T05"));
            assert_eq!(client.register(RIP), expected);
        }
        // What was pushed says where it was.
        let esp = client.register(7);
        let at = FAULT as u32;
        client.check(&format!("m{esp:x},4"), &format!("{:08x}", at.swap_bytes()));
    }
}

#[test]
fn steps_over_io_are_one_instruction_whoever_else_asks() {
    for options in engines() {
        let scene = Scene::with(options, |_| {});
        let mut client = at_loop(&scene);
        let handle = scene.handle.clone();
        let asking = std::sync::atomic::AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while asking.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = handle.on_vcpu(0, |cpu| cpu.regs().map(drop));
                }
            });
            for _ in 0..2000 {
                for expected in [OUT, OUT + 2, LOOP] {
                    client.packet("vCont;s:p1.1");
                    assert!(client.answer().starts_with("T05"));
                    assert_eq!(client.register(RIP), expected);
                }
            }
            asking.store(false, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
