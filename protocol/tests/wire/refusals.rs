//! The table of refusals: numbers and names are unique, sentences read as sentences.

use std::collections::HashSet;

use gpu_broker_protocol::refusal::{Reason, Refusal};
use gpu_broker_protocol::{Violation, codec};

#[test]
fn codes_and_names_are_unique_and_in_order() {
    assert!(Reason::ALL.is_sorted_by_key(|reason| *reason as u16));
    let codes: HashSet<u16> = Reason::ALL.iter().map(|reason| *reason as u16).collect();
    let names: HashSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(codes.len(), Reason::ALL.len());
    assert_eq!(names.len(), Reason::ALL.len());
    for reason in Reason::ALL {
        assert_eq!(Reason::from_code(*reason as u16), Some(*reason));
    }
    assert_eq!(Reason::from_code(0), None, "0 is no refusal");
}

#[test]
fn names_are_the_variants_in_kebab_case() {
    for reason in Reason::ALL {
        let variant = format!("{reason:?}");
        let mut kebab = String::new();
        for letter in variant.chars() {
            if letter.is_uppercase() && !kebab.is_empty() {
                kebab.push('-');
            }
            kebab.extend(letter.to_lowercase());
        }
        assert_eq!(reason.name(), kebab, "of {variant}");
    }
}

#[test]
fn sentences_can_follow_a_colon() {
    for reason in Reason::ALL {
        let sentence = reason.sentence();
        let first = sentence.split_whitespace().next().expect("a sentence has words");
        // Names in capitals (CLONE, DR1) may begin a sentence; other words must be lower case.
        let is_name =
            first.chars().filter(|c| c.is_alphabetic()).all(char::is_uppercase) && first.len() > 1;
        assert!(is_name || !first.starts_with(char::is_uppercase), "{}: {sentence}", reason.name());
        assert!(!sentence.ends_with('.') && sentence.trim() == sentence, "{sentence}");
        assert!(sentence.len() >= 10, "{}: too short to help: {sentence}", reason.name());
    }
}

#[test]
fn errnos_are_real_ones() {
    for reason in Reason::ALL {
        assert!((1..=133).contains(&reason.errno()), "{}: {}", reason.name(), reason.errno());
    }
}

#[test]
fn a_refusal_on_the_wire_says_what_the_table_says() {
    for reason in Reason::ALL {
        let refusal = Refusal::new(*reason).with_detail("the value").with_errno(99);
        let mut packet = Vec::new();
        codec::encode_refusal(0x0101, 1, &refusal, &mut packet).expect("it fits");
        let body = codec::decode_refusal(&packet[8..]).expect("whole");
        assert_eq!((body.code, body.errno), (*reason as u16, 99));
        assert_eq!(body.name, reason.name());
        assert_eq!(body.sentence, format!("{} (the value)", reason.sentence()));
        assert_eq!(Refusal::from(*reason).errno(), reason.errno());
    }
}

#[test]
fn epitaphs_of_violations_can_follow_a_colon() {
    use Violation::*;
    for violation in [
        Short,
        Trailing,
        Malformed,
        TooLong,
        UnknownOpcode,
        UnknownFlags,
        FdCount,
        HelloExpected,
        HelloRepeated,
    ] {
        let text = violation.epitaph().text;
        assert!(!text.ends_with('.') && text.len() >= 10, "{text}");
    }
}
