//! The sizes of thumbnails: `imageMogr2/thumbnail/…` (doc 44880) and the modes of `imageView2` (doc 44893). Knows numbers
//! only.

/// How a thumbnail's size follows from the original's. Lengths are in pixels and not zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Geometry {
    /// In percent of the width and of the height.
    Scale(u32, u32),
    /// In proportion, with at most this width and height, where one is given.
    Within(Option<u32>, Option<u32>),
    /// In proportion, with at least this width and height.
    AtLeast(u32, u32),
    /// As [`Geometry::AtLeast`], then cropped in the middle.
    Filled(u32, u32),
    /// Not in proportion.
    Exact(u32, u32),
    /// In proportion, with at most this many pixels.
    Area(u32),
}

impl Geometry {
    /// What follows `thumbnail/`.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.parse().ok().filter(|number| *number > 0);
        let sides = |text: &str| {
            let (width, height) = text.split_once('x')?;
            Some((number(width)?, number(height)?))
        };
        if let Some(rest) = text.strip_prefix('!') {
            return if let Some(percent) =
                rest.strip_prefix('x').and_then(|rest| rest.strip_suffix('p'))
            {
                Some(Self::Scale(100, number(percent)?))
            } else if let Some(percent) = rest.strip_suffix("px") {
                Some(Self::Scale(number(percent)?, 100))
            } else if let Some(percent) = rest.strip_suffix('p') {
                Some(Self::Scale(number(percent)?, number(percent)?))
            } else {
                let (width, height) = sides(rest.strip_suffix('r')?)?;
                Some(Self::AtLeast(width, height))
            };
        }
        if let Some(area) = text.strip_suffix('@') {
            return Some(Self::Area(number(area)?));
        }
        if let Some(text) = text.strip_suffix('!') {
            return sides(text).map(|(width, height)| Self::Exact(width, height));
        }
        if let Some(text) = text.strip_suffix('r') {
            return sides(text).map(|(width, height)| Self::AtLeast(width, height));
        }
        let (width, height) = text.split_once('x')?;
        let side = |text: &str| if text.is_empty() { Some(None) } else { number(text).map(Some) };
        match (side(width)?, side(height)?) {
            (None, None) => None,
            (width, height) => Some(Self::Within(width, height)),
        }
    }

    /// `imageView2/{mode}/w/{width}/h/{height}`; a missing side is as long as the other one where both are needed.
    pub fn of_view(mode: &str, width: Option<&str>, height: Option<&str>) -> Option<Self> {
        let side = |side: Option<&str>| match side {
            Some(text) => text.parse().ok().filter(|number| *number > 0).map(Some),
            None => Some(None),
        };
        let (width, height) = (side(width)?, side(height)?);
        let either = width.or(height)?;
        let (both_width, both_height) = (width.unwrap_or(either), height.unwrap_or(either));
        match mode {
            "1" => Some(Self::Filled(both_width, both_height)),
            "2" => Some(Self::Within(width, height)),
            "3" => Some(Self::AtLeast(both_width, both_height)),
            _ => None,
        }
    }

    /// The size that an original is scaled to.
    pub fn size(self, width: u32, height: u32) -> (u32, u32) {
        let (original_width, original_height) = (f64::from(width.max(1)), f64::from(height.max(1)));
        let scale = |limit: u32, side: f64| f64::from(limit) / side;
        let (x, y) = match self {
            Self::Scale(x, y) => (f64::from(x) / 100.0, f64::from(y) / 100.0),
            Self::Exact(width, height) => return (width, height),
            Self::Within(width, height) => {
                let x = width.map_or(f64::INFINITY, |width| scale(width, original_width));
                let y = height.map_or(f64::INFINITY, |height| scale(height, original_height));
                (x.min(y), x.min(y))
            }
            Self::AtLeast(width, height) | Self::Filled(width, height) => {
                let factor = scale(width, original_width).max(scale(height, original_height));
                (factor, factor)
            }
            Self::Area(area) => {
                let factor = (f64::from(area) / (original_width * original_height)).sqrt().min(1.0);
                (factor, factor)
            }
        };
        // A conversion to an integer saturates; the caller has a limit.
        let pixels = |side: f64| side.round().max(1.0) as u32;
        (pixels(original_width * x), pixels(original_height * y))
    }

    /// The size that the scaled picture is cropped to.
    pub fn crop(self) -> Option<(u32, u32)> {
        match self {
            Self::Filled(width, height) => Some((width, height)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_documentation() {
        for (text, size) in [
            ("200x", (200, 150)),
            ("x75", (100, 75)),
            ("100x100", (100, 75)),
            ("100x30", (40, 30)),
            ("800x", (800, 600)),
            ("!50p", (200, 150)),
            ("!50px", (200, 300)),
            ("!x50p", (400, 150)),
            ("!100x100r", (133, 100)),
            ("100x100r", (133, 100)),
            ("100x100!", (100, 100)),
            ("30000@", (200, 150)),
            ("1x", (1, 1)),
            ("4294967295x4294967295!", (u32::MAX, u32::MAX)),
            ("4294967295x", (u32::MAX, 3_221_225_471)),
        ] {
            assert_eq!(
                Geometry::parse(text).map(|geometry| geometry.size(400, 300)),
                Some(size),
                "{text}"
            );
        }
        for text in [
            "",
            "x",
            "0x",
            "200",
            "-1x",
            "200x200x",
            "!p",
            "!0p",
            "!200x",
            "@",
            "!",
            "4294967296x",
            "1e3x",
            "200px",
        ] {
            assert_eq!(Geometry::parse(text), None, "{text}");
        }
    }

    #[test]
    fn modes_of_image_view() {
        let view = |mode, width, height| {
            let geometry = Geometry::of_view(mode, width, height)?;
            Some((geometry.size(400, 300), geometry.crop()))
        };
        assert_eq!(view("1", Some("100"), Some("100")), Some(((133, 100), Some((100, 100)))));
        assert_eq!(view("1", Some("90"), None), Some(((120, 90), Some((90, 90)))));
        assert_eq!(view("2", Some("100"), Some("100")), Some(((100, 75), None)));
        assert_eq!(view("2", None, Some("30")), Some(((40, 30), None)));
        assert_eq!(view("3", Some("100"), Some("100")), Some(((133, 100), None)));
        for (mode, width) in [("1", None), ("2", Some("0")), ("9", Some("1")), ("", Some("1"))] {
            assert_eq!(view(mode, width, None), None, "{mode}");
        }
    }
}
