//! Finds the functions of a source file without parsing it: comments, strings
//! and characters are skipped, then `fn name` and its braces are matched.

/// A function and its lines, from `fn` to the closing brace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) lines: usize,
}

/// Every function with a body, in order of its end.
pub(super) fn functions(text: &str) -> Vec<Function> {
    let code = blank(text);
    let mut found = Vec::new();
    let mut line = 1;
    let mut depth = 0usize;
    // Functions whose body is open: name, first line, depth outside the body.
    let mut open: Vec<(String, usize, usize)> = Vec::new();
    // A function whose body has not begun: name, first line, bracket depth.
    let mut head: Option<(String, usize, usize)> = None;
    let mut word = String::new();
    let mut after_fn = false;
    for c in code.chars() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            if after_fn {
                head = Some((word.clone(), line, 0));
            }
            after_fn = word == "fn";
            word.clear();
        }
        match (c, &mut head) {
            ('\n', _) => line += 1,
            ('(' | '[', Some(h)) => h.2 += 1,
            (')' | ']', Some(h)) => h.2 = h.2.saturating_sub(1),
            (';', Some(h)) if h.2 == 0 => head = None,
            ('{', h) => {
                if h.as_ref().is_some_and(|h| h.2 == 0)
                    && let Some((name, first, _)) = h.take()
                {
                    open.push((name, first, depth));
                }
                depth += 1;
            }
            ('}', _) => {
                depth = depth.saturating_sub(1);
                if open.last().is_some_and(|o| o.2 == depth)
                    && let Some((name, first, _)) = open.pop()
                {
                    found.push(Function {
                        name,
                        lines: line - first + 1,
                    });
                }
            }
            _ => {}
        }
        if !c.is_whitespace() {
            after_fn = false;
        }
    }
    found
}

/// `text` with comments, strings and character literals blanked, lines kept.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = token_end(bytes, at);
        match end {
            Some(end) => {
                out.extend(bytes[at..end].iter().filter(|b| **b == b'\n').map(|_| '\n'));
                out.push(' ');
                at = end;
            }
            None => {
                out.push(if bytes[at].is_ascii() {
                    bytes[at] as char
                } else {
                    '_'
                });
                at += 1;
            }
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends, if one does.
fn token_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let until = |needle: &[u8], from: usize| {
        let found = rest
            .get(from..)?
            .windows(needle.len())
            .position(|w| w == needle);
        Some(found.map_or(bytes.len(), |p| at + from + p + needle.len()))
    };
    match rest {
        [b'/', b'/', ..] => Some(until(b"\n", 0)?.saturating_sub(1).max(at + 2)),
        [b'/', b'*', ..] => until(b"*/", 2),
        [b'r', b'"' | b'#', ..] if !after_word => raw_end(bytes, at + 1),
        [b'b', b'r', b'"' | b'#', ..] if !after_word => raw_end(bytes, at + 2),
        [b'"', ..] => Some(quoted_end(bytes, at + 1)),
        [b'\'', b'\\', _, ..] => until(b"'", 3),
        [b'\'', c, ..] => {
            let width = match c {
                0xf0.. => 4,
                0xe0.. => 3,
                0xc0.. => 2,
                _ => 1,
            };
            // Otherwise a lifetime.
            (rest.get(1 + width) == Some(&b'\'')).then_some(at + width + 2)
        }
        _ => None,
    }
}

fn quoted_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn raw_end(bytes: &[u8], start: usize) -> Option<usize> {
    let hashes = bytes[start..].iter().take_while(|b| **b == b'#').count();
    if bytes.get(start + hashes) != Some(&b'"') {
        // A raw identifier.
        return None;
    }
    let mut end = vec![b'"'];
    end.resize(1 + hashes, b'#');
    let body = start + hashes + 1;
    let found = bytes[body..].windows(end.len()).position(|w| w == end);
    Some(found.map_or(bytes.len(), |p| body + p + end.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, usize)]) {
        let found = functions(text);
        let found: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.lines)).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn functions_are_measured_from_fn_to_brace() {
        check("fn a() {}\n", &[("a", 1)]);
        check(
            "pub fn a(\n    x: [u8; 4],\n) -> u8 {\n    x[0]\n}\n",
            &[("a", 5)],
        );
        check("fn a() {\n    fn b() {\n    }\n}\n", &[("b", 2), ("a", 4)]);
        check(
            "trait T {\n    fn a();\n    fn b() {\n    }\n}\n",
            &[("b", 2)],
        );
    }

    #[test]
    fn braces_in_text_and_comments_do_not_count() {
        check(
            "fn a() {\n    let s = \"}\\\"}\"; // }\n    /* } */ let c = '}';\n}\n",
            &[("a", 4)],
        );
        check(
            "fn a<'x>(s: &'x str) {\n    r#\"}\"#;\n    b'}';\n    '\\'';\n}\n",
            &[("a", 5)],
        );
    }

    #[test]
    fn function_types_are_no_functions() {
        check(
            "const A: fn(u8) -> u8 = f;\nfn b(x: fn()) {\n}\n",
            &[("b", 2)],
        );
    }
}
