//! How KEDA, a program in Go, reads booleans.
//!
//! Architecture invariant: what a text means; what follows from it is not known here.

/// As Go's `strconv.ParseBool` has it; `None`: it is neither.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
