//! What `-smbios type=N,...` can set.

/// A value of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmbiosValue {
    /// Type of the structure.
    pub kind: u8,
    /// One of its row's fields.
    pub field: &'static str,
    /// The value; texts have no NUL and are not empty.
    pub value: String,
}

/// The fields of one type, QEMU's names.
pub struct FieldRow {
    /// Type of the structure.
    pub kind: u8,
    /// Names of texts.
    pub texts: &'static [&'static str],
    /// Names of numbers up to 65535.
    pub numbers: &'static [&'static str],
}

/// Every type with fields. `uuid` is checked by the option's parser, `value`
/// may come several times.
pub const FIELDS: [FieldRow; 7] = [
    FieldRow {
        kind: 0,
        texts: &["vendor", "version", "date"],
        numbers: &[],
    },
    FieldRow {
        kind: 1,
        texts: &[
            "manufacturer",
            "product",
            "version",
            "serial",
            "uuid",
            "sku",
            "family",
        ],
        numbers: &[],
    },
    FieldRow {
        kind: 2,
        texts: &[
            "manufacturer",
            "product",
            "version",
            "serial",
            "asset",
            "location",
        ],
        numbers: &[],
    },
    FieldRow {
        kind: 3,
        texts: &["manufacturer", "version", "serial", "asset", "sku"],
        numbers: &[],
    },
    FieldRow {
        kind: 4,
        texts: &[
            "sock_pfx",
            "manufacturer",
            "version",
            "serial",
            "asset",
            "part",
        ],
        numbers: &["max-speed", "current-speed"],
    },
    FieldRow {
        kind: 11,
        texts: &["value"],
        numbers: &[],
    },
    FieldRow {
        kind: 17,
        texts: &["loc_pfx", "bank", "manufacturer", "serial", "asset", "part"],
        numbers: &["speed"],
    },
];

/// Looks up the user's values; the last one of a name counts.
pub(super) struct Values<'a> {
    pub(super) set: &'a [SmbiosValue],
    pub(super) product: &'a str,
    pub(super) version: &'a str,
}

impl<'a> Values<'a> {
    pub(super) fn text(&self, kind: u8, field: &str, default: &'a str) -> &'a str {
        self.all(kind, field).last().unwrap_or(default)
    }

    pub(super) fn number(&self, kind: u8, field: &str, default: u16) -> u16 {
        let text = self.all(kind, field).last();
        text.and_then(|t| t.parse().ok()).unwrap_or(default)
    }

    pub(super) fn all(&self, kind: u8, field: &str) -> impl Iterator<Item = &'a str> {
        let matches = move |v: &&'a SmbiosValue| v.kind == kind && v.field == field;
        let found: Vec<&str> = self.set.iter().filter(matches).map(|v| &*v.value).collect();
        found.into_iter()
    }

    pub(super) fn has(&self, kind: u8) -> bool {
        self.set.iter().any(|v| v.kind == kind)
    }
}
