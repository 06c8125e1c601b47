//! Command lines.

/// One word a line.
pub(super) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let words: Vec<String> = text.split('\n').map(str::to_owned).collect();
    if let Err(why) = trapeze::check_options(&words) {
        assert!(!why.is_empty(), "an error without a text");
    }
}
