//! The model's name, as the provider has it and as the customer does. Only the name is changed: all
//! other bytes stay as they are, so the caches of providers go on to match.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use super::answer::ByteStream;
use super::sse::Frames;
use crate::json::fields::Fields;

/// Where an answer or an event names the model: in a field, or in a field of an object.
const PLACES: [(Option<&str>, &str); 4] = [
    (None, "model"),
    (None, "modelVersion"),
    (Some("response"), "model"),
    (Some("message"), "model"),
];

/// The body with another value in each of the places where it names a model. `None` if there is
/// none.
fn with_name(text: &str, name: &str, places: &[(Option<&str>, &str)]) -> Option<String> {
    let fields = Fields::read(text)?;
    let found = places.iter().filter_map(|(outer, inner)| {
        let place = match outer {
            None => fields.place(inner, text)?,
            Some(outer) => {
                let within = fields.place(outer, text)?;
                let object = text.get(within.clone())?;
                let place = Fields::read(object)?.place(inner, object)?;
                within.start.checked_add(place.start)?..within.start.checked_add(place.end)?
            }
        };
        text.get(place.clone())?.starts_with('"').then_some(place)
    });
    let mut found: Vec<Range<usize>> = found.collect();
    found.sort_by_key(|place| place.start);
    let value = serde_json::to_string(name).ok()?;
    let mut out = String::with_capacity(text.len().saturating_add(value.len()));
    let mut end = 0;
    for place in &found {
        out.push_str(text.get(end..place.start)?);
        out.push_str(&value);
        end = place.end;
    }
    out.push_str(text.get(end..)?);
    (!found.is_empty()).then_some(out)
}

/// The body of a request with this model.
#[must_use]
pub fn rename(body: &Bytes, name: &str) -> Bytes {
    renamed(body, name, &[(None, "model")])
}

/// A whole answer with this model.
#[must_use]
pub fn rename_answer(body: &Bytes, name: &str) -> Bytes {
    renamed(body, name, &PLACES)
}

fn renamed(body: &Bytes, name: &str, places: &[(Option<&str>, &str)]) -> Bytes {
    let text = std::str::from_utf8(body).ok();
    text.and_then(|text| with_name(text, name, places)).map_or_else(|| body.clone(), Bytes::from)
}

/// The frame of a stream with this model. Data in more than one line stays as it is.
fn rename_frame(frame: Bytes, name: &str) -> Bytes {
    let Some(out) = renamed_frame(&frame, name) else { return frame };
    out.into()
}

fn renamed_frame(frame: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(frame).ok()?;
    // No frame without these has a name to change.
    if !text.contains("model") {
        return None;
    }
    let mut data = None;
    let mut start = 0_usize;
    for line in text.split_inclusive(['\n', '\r']) {
        if let Some(value) = line.strip_prefix("data:") {
            if data.is_some() {
                return None;
            }
            let from = start.checked_add("data:".len())?;
            data = Some(from..from.checked_add(value.len())?);
        }
        start = start.checked_add(line.len())?;
    }
    let data = data?;
    let changed = with_name(text.get(data.clone())?, name, &PLACES)?;
    Some([text.get(..data.start)?, &changed, text.get(data.end..)?].concat())
}

/// What is left of a stream to be renamed.
struct Renaming {
    source: ByteStream,
    frames: Frames,
    name: Arc<str>,
    /// Has a frame come that is too large? From there on nothing is changed.
    is_over: bool,
    is_at_end: bool,
}

/// The stream with this model in its events. A frame is passed on when it is complete.
#[must_use]
pub fn rename_stream(source: ByteStream, name: Arc<str>) -> ByteStream {
    let frames = Frames::default();
    let begun = Renaming { source, frames, name, is_over: false, is_at_end: false };
    let renamed = futures_util::stream::unfold(begun, |mut renaming: Renaming| async move {
        loop {
            if renaming.is_at_end {
                return None;
            }
            let chunk = match renaming.source.next().await {
                Some(Ok(chunk)) => chunk,
                end => {
                    renaming.is_at_end = true;
                    let rest =
                        renaming.frames.rest().map(|rest| rename_frame(rest, &renaming.name));
                    return match (rest, end) {
                        (Some(rest), Some(failed)) => {
                            // What has come of the last frame comes before the failure.
                            renaming.source = Box::pin(futures_util::stream::iter([failed]));
                            (renaming.is_at_end, renaming.is_over) = (false, true);
                            Some((Ok(rest), renaming))
                        }
                        (Some(rest), None) => Some((Ok(rest), renaming)),
                        (None, Some(failed)) => Some((failed, renaming)),
                        (None, None) => None,
                    };
                }
            };
            if renaming.is_over {
                return Some((Ok(chunk), renaming));
            }
            let mut out = BytesMut::new();
            if renaming.frames.push(&chunk).is_err() {
                renaming.is_over = true;
                out.extend_from_slice(&renaming.frames.rest().unwrap_or_default());
                out.extend_from_slice(&chunk);
                return Some((Ok(out.freeze()), renaming));
            }
            while let Some(frame) = renaming.frames.cut() {
                out.extend_from_slice(&rename_frame(frame, &renaming.name));
            }
            if !out.is_empty() {
                return Some((Ok(out.freeze()), renaming));
            }
        }
    });
    Box::pin(renamed)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use proptest::prelude::*;

    use super::*;
    use crate::upstream::Failure;
    use crate::upstream::sse::FRAME_BYTES_MAX;

    #[test]
    fn nothing_but_the_name_is_changed() {
        for (body, expected) in [
            (
                r#" {"a": 1.50,"model" : "m-1", "b":"ü\u0041"} "#,
                r#" {"a": 1.50,"model" : "p", "b":"ü\u0041"} "#,
            ),
            (r#"{"mod\u0065l":"m"}"#, r#"{"mod\u0065l":"p"}"#),
            (
                r#"{"message":{"model":"m"},"x":{"model":"m"}}"#,
                r#"{"message":{"model":"p"},"x":{"model":"m"}}"#,
            ),
            (
                r#"{"response":{"id":1,"model":"m"},"modelVersion":"m"}"#,
                r#"{"response":{"id":1,"model":"p"},"modelVersion":"p"}"#,
            ),
            (r#"{"model":null,"a":"\"model\":\"m\""}"#, r#"{"model":null,"a":"\"model\":\"m\""}"#),
            (r#"{"model":{"x":"m"}}"#, r#"{"model":{"x":"m"}}"#),
            (r#"[{"model":"m"}]"#, r#"[{"model":"m"}]"#),
            ("no json", "no json"),
        ] {
            assert_eq!(rename_answer(&Bytes::from_static(body.as_bytes()), "p"), expected);
        }
        let request = Bytes::from_static(br#"{"message":{"model":"m"},"model":"m"}"#);
        assert_eq!(rename(&request, "a\"b"), r#"{"message":{"model":"m"},"model":"a\"b"}"#);
    }

    #[test]
    fn a_frame_keeps_its_lines() {
        for (frame, expected) in [
            (
                "event: message_start\ndata: {\"message\":{\"model\":\"m\"}}\n\n",
                "event: message_start\ndata: {\"message\":{\"model\":\"p\"}}\n\n",
            ),
            ("id: 7\r\ndata:{\"model\":\"m\"}\r\n\r\n", "id: 7\r\ndata:{\"model\":\"p\"}\r\n\r\n"),
            ("data: [DONE]\n\n", "data: [DONE]\n\n"),
            (": model\n\n", ": model\n\n"),
            ("data: {\"model\":\ndata: \"m\"}\n\n", "data: {\"model\":\ndata: \"m\"}\n\n"),
        ] {
            assert_eq!(rename_frame(frame.into(), "p"), expected);
        }
    }

    async fn streamed(pieces: Vec<Result<Bytes, Failure>>) -> (Vec<u8>, Option<Failure>) {
        let source: ByteStream = Box::pin(stream::iter(pieces));
        let mut renamed = rename_stream(source, "p".into());
        let (mut bytes, mut failure) = (Vec::new(), None);
        while let Some(piece) = renamed.next().await {
            match piece {
                Ok(piece) => bytes.extend_from_slice(&piece),
                Err(failed) => failure = Some(failed),
            }
        }
        (bytes, failure)
    }

    #[actix_web::test]
    async fn what_comes_before_a_failure_is_passed_on() {
        let cut = Failure::Broken("cut");
        let pieces = vec![Ok(Bytes::from_static(b"data: {\"model\":\"m\"}\n\ndata: 1")), Err(cut)];
        let expected = (b"data: {\"model\":\"p\"}\n\ndata: 1".to_vec(), Some(cut));
        assert_eq!(streamed(pieces).await, expected);
        assert_eq!(streamed(vec![Err(cut)]).await, (vec![], Some(cut)));
        assert_eq!(streamed(vec![]).await, (vec![], None));
    }

    #[actix_web::test]
    async fn a_frame_that_is_too_large_passes_as_it_is() {
        let large = vec![b'x'; FRAME_BYTES_MAX];
        let pieces = [b"data: 1\n\nda".as_slice(), &large, b"\n\ndata: {\"model\":\"m\"}\n\n"];
        let expected = pieces.concat();
        let pieces = pieces.map(|piece| Ok(Bytes::copy_from_slice(piece)));
        assert_eq!(streamed(pieces.into()).await, (expected, None));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_come(count in 0..6_usize, at in 0..300_usize) {
            let text = |name: &str| {
                let frame = format!("event: e\ndata: {{\"id\":\"é\",\"model\":\"{name}\"}}\n\n");
                frame.repeat(count)
            };
            let sent = text("m");
            let (first, second) = sent.as_bytes().split_at(at.min(sent.len()));
            let pieces = [first, second].map(|piece| Ok(Bytes::copy_from_slice(piece)));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (bytes, _) = runtime.block_on(streamed(pieces.into()));
            prop_assert_eq!(String::from_utf8(bytes).unwrap(), text("p"));
        }
    }
}
