//! Server-sent events as bytes: cut into frames, without reading them.
//!
//! After the WHATWG's HTML standard, section 9.2: a frame ends with an empty line, a line with LF,
//! CRLF or CR.

use bytes::{Bytes, BytesMut};

/// Largest frame, in bytes.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A frame is larger than [`FRAME_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameTooLarge {
    /// What has come of it.
    pub bytes: usize,
}

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: BytesMut,
    /// The part of the buffer that was searched.
    seen: usize,
}

impl Frames {
    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), FrameTooLarge> {
        let len = self.buffer.len().saturating_add(bytes.len());
        if len > FRAME_BYTES_MAX {
            return Err(FrameTooLarge { bytes: len });
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next complete frame, with the empty line that ends it.
    pub fn cut(&mut self) -> Option<Bytes> {
        let end = frame_end(&self.buffer, self.seen);
        // A line end may be cut in two, and an empty line consists of two line ends.
        self.seen = self.buffer.len().saturating_sub(4);
        let frame = self.buffer.split_to(end?).freeze();
        self.seen = 0;
        Some(frame)
    }

    /// The rest at the end of the stream: a frame without the empty line that ends it.
    pub fn rest(&mut self) -> Option<Bytes> {
        let rest = self.buffer.split().freeze();
        self.seen = 0;
        (!rest.is_empty()).then_some(rest)
    }
}

/// The index after the first frame.
fn frame_end(buffer: &[u8], from: usize) -> Option<usize> {
    let line_end = |place: usize| match (buffer.get(place), buffer.get(place.saturating_add(1))) {
        (Some(b'\r'), Some(b'\n')) => Some(2),
        // It is not known yet whether an LF follows.
        (Some(b'\r'), None) | (None, _) => None,
        (Some(b'\r' | b'\n'), _) => Some(1),
        _ => None,
    };
    (from..buffer.len()).find_map(|place| {
        let second = place.saturating_add(line_end(place)?);
        Some(second.saturating_add(line_end(second)?))
    })
}

/// The `event` and the `data` of a frame, the lines of data joined. `None` if it has no data.
#[must_use]
pub fn read(frame: &[u8]) -> Option<(Option<&str>, std::borrow::Cow<'_, str>)> {
    let text = std::str::from_utf8(frame).ok()?;
    // A stream may begin with the mark of its byte order, which is no part of the name.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut event = None;
    let mut data: Option<std::borrow::Cow<'_, str>> = None;
    for line in text.split(['\n', '\r']) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => event = Some(value),
            "data" => {
                data = Some(match data {
                    None => value.into(),
                    Some(lines) => format!("{lines}\n{value}").into(),
                });
            }
            _ => {}
        }
    }
    Some((event, data?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(pieces: &[&[u8]]) -> (Vec<Bytes>, Option<Bytes>) {
        let mut frames = Frames::default();
        let mut all = Vec::new();
        for piece in pieces {
            frames.push(piece).unwrap();
            while let Some(frame) = frames.cut() {
                all.push(frame);
            }
        }
        (all, frames.rest())
    }

    #[test]
    fn a_frame_ends_with_an_empty_line_in_any_spelling() {
        for (text, count) in [
            ("data: 1\n\ndata: 2\n\n", 2),
            ("data: 1\r\n\r\ndata: 2\r\n\r\n", 2),
            ("data: 1\r\rdata: 2\r\rx", 2),
            ("data: 1\n\r\ndata: 2", 1),
            (": comment\n\n", 1),
            ("data: 1\n", 0),
        ] {
            let (frames, rest) = cut(&[text.as_bytes()]);
            assert_eq!(frames.len(), count, "{text:?}");
            let whole: Vec<u8> = frames.into_iter().chain(rest).flatten().collect();
            assert_eq!(whole, text.as_bytes());
        }
    }

    #[test]
    fn a_frame_is_read() {
        assert_eq!(read(b"data: {}\n\n"), Some((None, "{}".into())));
        assert_eq!(read(b"data:{}\r\n\r\n"), Some((None, "{}".into())));
        assert_eq!(
            read(b"event: a\nid: 1\ndata: x\ndata: y\n\n"),
            Some((Some("a"), "x\ny".into()))
        );
        assert_eq!(read(b": ping\n\n"), None);
        assert_eq!(read(b"data: \xff\n\n"), None);
    }

    #[test]
    fn a_frame_has_its_limit() {
        let mut frames = Frames::default();
        let piece = vec![b'x'; FRAME_BYTES_MAX];
        frames.push(&piece).unwrap();
        assert_eq!(frames.push(b"x"), Err(FrameTooLarge { bytes: FRAME_BYTES_MAX + 1 }));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_come(text in "(data: [a-z]{0,5}(\n|\r\n|\r){1,3}){0,8}", at in 0..60_usize) {
            let bytes = text.as_bytes();
            let (first, second) = bytes.split_at(at.min(bytes.len()));
            let whole = cut(&[bytes]);
            let mut single: Vec<&[u8]> = bytes.chunks(1).collect();
            single.push(b"");
            prop_assert_eq!(&cut(&[first, second]).0.concat(), &whole.0.concat());
            let text = |(frames, rest): (Vec<Bytes>, Option<Bytes>)| (frames.concat(), rest.unwrap_or_default());
            let (frames, rest) = text(cut(&single));
            prop_assert_eq!([frames, rest.to_vec()].concat(), bytes);
        }
    }
}
