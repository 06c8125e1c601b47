//! `-object`: what is neither a device nor a back end of one kind.

use super::parse::Options;
use super::{keyval, memory, netdev};

/// The one that is not memory.
const DUMP: &str = "filter-dump";

/// `-object`.
pub(super) fn apply(options: &mut Options, value: &str) -> Result<(), String> {
    let mut words = keyval::parse(value);
    let is = |(key, value): &(String, Option<String>)| match value {
        None => key == DUMP,
        Some(value) => key == "qom-type" && value == DUMP,
    };
    match words.first() {
        Some(first) if is(first) => {}
        _ => return memory::object(options, value, &[DUMP]),
    }
    words.remove(0);
    if matches!(&*words, [(word, None)] if matches!(&**word, "help" | "?")) {
        let rows = netdev::DUMP_PROPERTIES.map(|(name, help)| format!("  {name}={help}\n"));
        let text = format!("{DUMP} options:\n{}", rows.concat());
        options.print.get_or_insert(text);
        return Ok(());
    }
    netdev::dump(options, words)
}
