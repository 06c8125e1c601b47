use super::*;

fn config() -> MachineConfig {
    MachineConfig {
        ram_bytes: 6 << 30,
        uuid: *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff",
        ..Default::default()
    }
}

fn build(config: &MachineConfig) -> Result<Smbios> {
    let layout = Layout::new(config.ram_bytes, 39, config.board)?;
    Smbios::new(config, &layout)
}

/// Type, formatted area and strings of every structure.
fn walk(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>, Vec<String>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (formatted, rest) = bytes.split_at(bytes[1].into());
        let end = rest.windows(2).position(|w| w == [0, 0]).unwrap() + 2;
        let texts = rest[..end].split(|b| *b == 0).filter(|t| !t.is_empty());
        let texts = texts.map(|t| String::from_utf8(t.to_vec()).unwrap());
        all.push((formatted[0], formatted.to_vec(), texts.collect()));
        bytes = &rest[end..];
    }
    all
}

#[test]
fn the_entry_point_describes_the_tables() {
    let smbios = build(&config()).unwrap();
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |a, b| a.wrapping_add(*b));
    assert_eq!(&smbios.anchor[..4], b"_SM_");
    assert_eq!((sum(&smbios.anchor), sum(&smbios.anchor[16..])), (0, 0));
    let address = u32::from_le_bytes(smbios.anchor[24..28].try_into().unwrap());
    let image = smbios.image();
    let at = (u64::from(address) - smbios.gpa) as usize;
    assert_eq!(image[at..], smbios.tables);
    let all = walk(&smbios.tables);
    let count = u16::from_le_bytes(smbios.anchor[28..30].try_into().unwrap());
    assert_eq!(all.len(), usize::from(count));
    let kinds: Vec<u8> = all.iter().map(|s| s.0).collect();
    assert_eq!(kinds, [0, 1, 3, 4, 16, 17, 19, 19, 32, 127]);
}

/// Lengths of version 2.8's structures, clause 7.
#[test]
fn structures_are_as_long_as_the_standard_says() {
    let smbios = build(&config()).unwrap();
    let lengths = [
        (0, 0x18),
        (1, 0x1b),
        (3, 0x16),
        (4, 0x2a),
        (16, 0x17),
        (17, 0x28),
        (19, 0x1f),
        (32, 0x0b),
        (127, 4),
    ];
    for (kind, formatted, _) in walk(&smbios.tables) {
        let expected = lengths.iter().find(|l| l.0 == kind);
        assert_eq!(expected, Some(&(kind, formatted.len())));
    }
}

#[test]
fn the_users_values_win() {
    let value = |kind, field, value: &str| SmbiosValue {
        kind,
        field,
        value: value.into(),
    };
    let config = MachineConfig {
        smbios: vec![
            value(1, "product", "first"),
            value(1, "product", "Box"),
            value(2, "serial", "B-1"),
            value(11, "value", "one"),
            value(11, "value", "two"),
            value(17, "speed", "3200"),
        ],
        ..config()
    };
    let all = walk(&build(&config).unwrap().tables);
    let of = |kind| all.iter().find(|s| s.0 == kind).unwrap();
    assert_eq!(of(1).2, ["Trapeze", "Box", "pc"]);
    let uuid = [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99];
    assert_eq!(of(1).1[8..18], uuid);
    assert!(of(2).2.contains(&"B-1".into()));
    assert_eq!(of(11).2, ["one", "two"]);
    assert_eq!(of(17).1[0x15..0x17], 3200u16.to_le_bytes());
    let too_much = value(11, "value", &"x".repeat(40_000));
    let config = MachineConfig {
        smbios: vec![too_much],
        ..config
    };
    assert!(matches!(build(&config), Err(Error::Smbios(_))));
}
