//! Which texts may become the value of an identity header, and which may name a user (contract section 10.5).

/// Longest value of an identity header.
const VALUE_BYTES_MAX: usize = 1024;

/// Whether the text can be a header value: no control character, so that no header is ever split, and at most 1 KiB.
pub fn is_header_value(text: &str) -> bool {
    text.len() <= VALUE_BYTES_MAX && !text.chars().any(char::is_control)
}

/// Whether the text can name a user: a header value that is not empty, and that whoever trims header values
/// (RFC 9110 section 5.5) does not turn into another user's name.
pub fn is_user_id(text: &str) -> bool {
    is_header_value(text) && !text.is_empty() && !text.starts_with(' ') && !text.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_long_texts_are_no_values() {
        for text in ["", "a", "ä, b", " a ", &"x".repeat(1024)] {
            assert!(is_header_value(text), "{text:?}");
        }
        for text in ["a\r\nX-Role: admin", "a\0", "\t", "\u{7f}", "\u{85}", &"x".repeat(1025)] {
            assert!(!is_header_value(text) && !is_user_id(text), "{text:?}");
        }
    }

    #[test]
    fn a_user_id_survives_trimming() {
        assert!(is_user_id("a b") && is_user_id("é"));
        assert!(!is_user_id("") && !is_user_id(" a") && !is_user_id("a "));
    }
}
