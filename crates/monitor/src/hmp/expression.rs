//! Numbers that people write: `0x1000+8*4`, `$rip`, `($rsp&~0xfff)`.

use crate::command::Failure;

/// Deepest nesting of parentheses.
const DEEPEST: u32 = 50;

/// Reads a register by its name without the `$`.
pub type Registers<'a> = dyn FnMut(&str) -> Result<u64, Failure> + 'a;

/// The value of an expression; arithmetic has 64 bits and wraps around.
///
/// # Errors
/// It makes no sense.
pub fn value(text: &str, registers: &mut Registers<'_>) -> Result<u64, Failure> {
    let mut parser = Parser {
        rest: text,
        registers,
        depth: 0,
    };
    let value = parser.sum()?;
    match parser.rest.trim_start() {
        "" => Ok(value),
        rest => Err(format!("unexpected '{rest}' in '{text}'").into()),
    }
}

struct Parser<'a, 'r> {
    rest: &'a str,
    registers: &'a mut Registers<'r>,
    depth: u32,
}

impl<'a> Parser<'a, '_> {
    fn operator(&mut self, operators: &[char]) -> Option<char> {
        self.rest = self.rest.trim_start();
        let found = self.rest.chars().next().filter(|c| operators.contains(c))?;
        self.rest = &self.rest[1..];
        Some(found)
    }

    fn word(&mut self) -> &'a str {
        let end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
        let end = self.rest.find(end).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn sum(&mut self) -> Result<u64, Failure> {
        let mut value = self.logic()?;
        while let Some(operator) = self.operator(&['+', '-']) {
            let other = self.logic()?;
            value = match operator {
                '+' => value.wrapping_add(other),
                _ => value.wrapping_sub(other),
            };
        }
        Ok(value)
    }

    fn logic(&mut self) -> Result<u64, Failure> {
        let mut value = self.product()?;
        while let Some(operator) = self.operator(&['&', '|', '^']) {
            let other = self.product()?;
            value = match operator {
                '&' => value & other,
                '|' => value | other,
                _ => value ^ other,
            };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<u64, Failure> {
        let mut value = self.term()?;
        while let Some(operator) = self.operator(&['*', '/', '%']) {
            let other = self.term()?;
            let by_zero = || Failure::from("division by zero");
            value = match operator {
                '*' => value.wrapping_mul(other),
                '/' => value.checked_div(other).ok_or_else(by_zero)?,
                _ => value.checked_rem(other).ok_or_else(by_zero)?,
            };
        }
        Ok(value)
    }

    fn term(&mut self) -> Result<u64, Failure> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("the expression is nested too deeply".into());
        }
        let value = match self.operator(&['+', '-', '~', '(', '$']) {
            Some('+') => self.term()?,
            Some('-') => self.term()?.wrapping_neg(),
            Some('~') => !self.term()?,
            Some('$') => {
                let name = self.word();
                (self.registers)(name)?
            }
            Some(_) => {
                let value = self.sum()?;
                self.operator(&[')'])
                    .ok_or_else(|| Failure::from("')' is missing"))?;
                value
            }
            None => self.number()?,
        };
        self.depth -= 1;
        Ok(value)
    }

    fn number(&mut self) -> Result<u64, Failure> {
        let word = self.word();
        let parsed = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => word.parse(),
        };
        parsed.map_err(|_| match word {
            "" => Failure::from("a number is missing"),
            word => format!("'{word}' is not a number").into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(text: &str) -> Result<u64, String> {
        let mut registers = |name: &str| match name {
            "rip" => Ok(0x1234),
            name => Err(format!("no register '{name}'").into()),
        };
        value(text, &mut registers).map_err(|failure| failure.text)
    }

    #[test]
    fn expressions() {
        for (text, expected) in [
            ("10", 10),
            ("0x10 + 2*3", 22),
            ("($rip & ~0xff) - 1", 0x11ff),
            ("-1", u64::MAX),
            ("7%4|8", 11),
        ] {
            assert_eq!(eval(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "1+",
            "(1",
            "1)",
            "1/0",
            "$rax",
            "0xg",
            "99999999999999999999",
        ] {
            assert!(eval(text).is_err(), "{text}");
        }
        assert!(eval(&"(".repeat(100_000)).unwrap_err().contains("deeply"));
        assert!(eval(&"-".repeat(100_000)).unwrap_err().contains("deeply"));
    }
}
