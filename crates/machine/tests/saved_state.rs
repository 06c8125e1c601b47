//! A guest is saved at random moments, compared after it was restored into a
//! fresh machine, and goes on there to what it always prints.

use machine::{
    DeviceConfig, DeviceModel, Error, Image, Machine, MachineConfig, MemorySerial, NetdevConfig,
    NetdevKind, Outcome, SerialConfig, VirtioNetConfig, VirtioSerialConfig,
};
use state::vcpu::Vcpu;
use std::sync::Arc;

/// The embedded guest, which checks itself and powers off.
fn config(memory: &MemorySerial) -> MachineConfig {
    MachineConfig {
        ram_bytes: 32 << 20,
        kernel: Some(Image::Bytes {
            name: "guest".into(),
            bytes: Arc::from(guest::ELF),
        }),
        cmdline: "check".into(),
        serial: vec![SerialConfig::Memory(memory.clone())],
        devices: vec![
            DeviceConfig::new(DeviceModel::VirtioRng),
            DeviceConfig::new(DeviceModel::VirtioBalloon(Default::default())),
            DeviceConfig::new(DeviceModel::VirtioSerial(VirtioSerialConfig {
                max_ports: 31,
                ports: Vec::new(),
            })),
            DeviceConfig::new(DeviceModel::Edu { dma_mask: u64::MAX }),
            DeviceConfig::new(DeviceModel::PciTestdev),
        ],
        ..MachineConfig::default()
    }
}

/// The same on a board without PCI.
fn microvm(memory: &MemorySerial) -> MachineConfig {
    let net = DeviceModel::VirtioNet(VirtioNetConfig {
        netdev: Some("n".into()),
        vectors: None,
        options: Default::default(),
    });
    MachineConfig {
        board: machine::boards::BoardKind::by_name("microvm").unwrap(),
        netdevs: vec![NetdevConfig {
            id: "n".into(),
            kind: NetdevKind::Nowhere,
        }],
        devices: [DeviceModel::VirtioRng, net]
            .map(|model| DeviceConfig {
                mmio: true,
                ..DeviceConfig::new(model)
            })
            .to_vec(),
        ..config(memory)
    }
}

fn machine(config: MachineConfig) -> Machine {
    Machine::new(Arc::new(engine::Soft::default()), config).unwrap()
}

/// Runs to the end or to a saved state after `exits` exits.
fn run(
    mut machine: Machine,
    exits: u64,
    from: Option<state::Image>,
) -> (Outcome, Option<state::Image>) {
    let handle = machine.handle();
    handle.save_after_exits(exits);
    if let Some(image) = from {
        machine.restore(image);
    }
    let outcome = machine.run().unwrap();
    (outcome, handle.take_saved())
}

/// Numbers for the moments: an LCG (Numerical Recipes).
struct Moments(u32);

impl Moments {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        1 + u64::from(self.0 >> 16) % 600
    }
}

#[test]
fn a_guest_goes_on_where_it_was_saved() {
    goes_on(config);
}

#[test]
fn a_guest_without_pci_goes_on() {
    goes_on(microvm);
}

fn goes_on(config: fn(&MemorySerial) -> MachineConfig) {
    let whole = MemorySerial::new();
    assert_eq!(run(machine(config(&whole)), 0, None).0, Outcome::PowerOff);
    assert!(whole.output().contains("GUEST-OK"), "{}", whole.output());

    // Life after life in a fresh machine; the console goes on, too.
    let memory = MemorySerial::new();
    let mut moments = Moments(2026);
    let mut from = None;
    let mut lives = 0;
    loop {
        let (outcome, saved) = run(machine(config(&memory)), moments.next(), from);
        lives += 1;
        if outcome == Outcome::PowerOff {
            break;
        }
        assert_eq!(outcome, Outcome::Saved);
        let image = saved.expect("it was saved");
        let mut file = Vec::new();
        state::encode(&image, &mut file).unwrap();
        let image = state::decode(&file).unwrap();
        let fresh = machine(config(&MemorySerial::new()));
        let difference = fresh.compare_restored(&image).unwrap();
        assert_eq!(difference, None, "life {lives}");
        from = Some(image);
    }
    assert!(lives > 5, "{lives} lives");
    // What it prints of time and speed differs, the verdicts do not.
    let output = memory.output();
    assert!(output.contains("GUEST-OK"), "{output}");
    let lines = |text: &str| text.lines().count();
    assert_eq!(lines(&output), lines(&whole.output()), "{output}");
}

#[test]
fn a_state_of_another_machine_is_refused() {
    let memory = MemorySerial::new();
    let (outcome, saved) = run(machine(config(&memory)), 500, None);
    assert_eq!(outcome, Outcome::Saved);
    let image = saved.unwrap();
    let refused = |config: MachineConfig, image: &state::Image| {
        let error = machine(config).compare_restored(image).unwrap_err();
        error.to_string()
    };
    // Fewer devices, more devices, less memory, no console.
    let mut fewer = config(&memory);
    fewer.devices.pop();
    let why = refused(fewer, &image);
    assert!(why.contains("pci-config/06.0"), "{why}");
    let mut more = config(&memory);
    more.devices
        .push(DeviceConfig::new(DeviceModel::PciTestdev));
    let why = refused(more, &image);
    assert!(why.contains("no section 'pci-config/07.0'"), "{why}");
    let mut other = config(&memory);
    other.devices.swap(0, 2);
    let why = refused(other, &image);
    assert!(
        why.contains("cannot be") || why.contains("section"),
        "{why}"
    );
    let silent = MachineConfig {
        serial: Vec::new(),
        ..config(&memory)
    };
    let why = refused(silent, &image);
    assert!(why.contains("uart/com1"), "{why}");
    // A vCPU whose image has another size.
    let mut cut = image.clone();
    let mut vcpu: Vcpu = cut.take("0").unwrap();
    vcpu.xsave.pop();
    cut.put("0", &vcpu);
    let why = refused(config(&memory), &cut);
    assert!(why.contains("vcpu/0") && why.contains("XSAVE"), "{why}");
    let machine = machine(config(&memory));
    assert!(matches!(
        machine.compare_restored(&state::Image::default()),
        Err(Error::SavedState(_))
    ));
}

/// Saves a guest that waits for input, with an entropy device that came while
/// it ran.
fn saved_with_one_more(memory: &MemorySerial) -> state::Image {
    let config = MachineConfig {
        cmdline: String::new(),
        ..config(memory)
    };
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let machine = machine(config);
        tell.send(machine.handle()).unwrap();
        machine.run()
    });
    let handle = told.recv().unwrap();
    assert!(memory.wait_for("> ", std::time::Duration::from_secs(60)));
    handle
        .add_device(DeviceConfig::new(DeviceModel::VirtioRng))
        .unwrap();
    handle.save();
    assert_eq!(thread.join().unwrap().unwrap(), Outcome::Saved);
    handle.take_saved().expect("it was saved")
}

#[test]
fn what_was_plugged_in_must_be_there() {
    let memory = MemorySerial::new();
    let image = saved_with_one_more(&memory);
    let bare = || MachineConfig {
        cmdline: String::new(),
        ..config(&MemorySerial::new())
    };
    let error = machine(bare()).compare_restored(&image).unwrap_err();
    assert!(error.to_string().contains("/07.0"), "{error}");
    let mut same = bare();
    let mut rng = DeviceConfig::new(DeviceModel::VirtioRng);
    rng.address = Some((7, 0));
    same.devices.push(rng);
    assert_eq!(machine(same).compare_restored(&image).unwrap(), None);
}
