//! Pictures as COS processes them on download: thumbnails and other formats of PNG, JPEG and WebP (docs 44880, 44893).
//! What else COS can do is refused, so that it is not mistaken for done.

use std::fs::File;
use std::io::{Cursor, Read};

use bytes::Bytes;
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use tokio::sync::Semaphore;

use super::cos_response::Refusal;
use super::http::{Content, Head, Response};
use super::picture_geometry::Geometry;

/// In bytes: the largest picture that COS processes.
const MAX_LENGTH: u64 = 32 << 20;
/// In bytes, decoded: 50 million pixels without transparency. COS documents 250 million.
const MAX_DECODED: u64 = 160 << 20;
/// In pixels: the longest side of a result.
const MAX_SIDE: u32 = 9999;
/// Pictures in memory at a time.
static PROCESSING: Semaphore = Semaphore::const_new(1);

/// The processing that a URL asks for.
pub fn requested(head: &Head) -> Option<String> {
    let operations = ["imageMogr2/", "imageView2/", "watermark/"];
    let is_operation = |name: &str| {
        name == "ci-process" || operations.iter().any(|operation| name.starts_with(operation))
    };
    let (name, value) = head.query.iter().find(|(name, _)| is_operation(name))?;
    Some(if value.is_empty() { name.clone() } else { format!("{name}={value}") })
}

/// The response with the processed picture instead of `original`, a response with a whole object.
pub async fn processed(operation: &str, original: Response) -> Result<Response, Refusal> {
    let steps = Steps::parse(operation)?;
    let Content::File(file, length) = original.content else { return Ok(original) };
    if length > MAX_LENGTH {
        return Err(refused("the picture has more than 32 MiB"));
    }
    let running = PROCESSING.acquire().await;
    let made = tokio::task::spawn_blocking(move || steps.apply(file)).await;
    drop(running);
    let (content, content_type) = made.map_err(|_| refused("the picture cannot be decoded"))??;
    let mut headers = original.headers;
    let replaced = ["Content-Type", "Accept-Ranges", "x-cos-hash-crc64ecma"];
    headers.retain(|(name, _)| !replaced.contains(name));
    headers.push(("Content-Type", content_type.to_owned()));
    Ok(Response { headers, content: Content::Bytes(content), ..original })
}

/// The status and the format are those of COS; the documentation gives the codes of failed processing only as numbers
/// (`X-ErrNo`), so the code is a general one.
fn refused(reason: &str) -> Refusal {
    Refusal::new(400, "InvalidArgument", &format!("The picture cannot be processed: {reason}."))
}

/// What is to be done with a picture, in this order.
#[derive(Debug, Default, PartialEq)]
struct Steps {
    auto_orient: bool,
    geometry: Option<Geometry>,
    format: Option<ImageFormat>,
    quality: Option<u8>,
}

impl Steps {
    fn parse(operation: &str) -> Result<Self, Refusal> {
        let unknown = |what: &str| refused(&format!("the sandbox does not know `{what}`"));
        let mut words = operation.split('/');
        let mut steps = Self::default();
        let mode = match words.next() {
            Some("imageMogr2") => None,
            Some("imageView2") => words.next(),
            _ => return Err(unknown(operation)),
        };
        let (mut width, mut height) = (None, None);
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_default();
            match word {
                "auto-orient" => steps.auto_orient = true,
                // They change nothing here: what is written has no metadata and is not progressive.
                "strip" => {}
                "interlace" => drop(value()),
                "w" if mode.is_some() => width = Some(value()),
                "h" if mode.is_some() => height = Some(value()),
                "thumbnail" if mode.is_none() => {
                    let value = value();
                    steps.geometry = Some(Geometry::parse(value).ok_or_else(|| unknown(value))?);
                }
                "format" => {
                    let value = value();
                    let format =
                        ImageFormat::from_extension(value).filter(|format| is_supported(*format));
                    steps.format = Some(format.ok_or_else(|| unknown(value))?);
                }
                "quality" | "q" | "rquality" | "rq" => {
                    let value = value();
                    let quality = value.trim_end_matches('!').parse().ok();
                    let quality = quality.filter(|quality| (1..=100).contains(quality));
                    steps.quality = Some(quality.ok_or_else(|| unknown(value))?);
                }
                other => return Err(unknown(other)),
            }
        }
        if let Some(mode) = mode {
            let geometry = Geometry::of_view(mode, width, height);
            steps.geometry = Some(geometry.ok_or_else(|| unknown(operation))?);
        }
        Ok(steps)
    }

    fn apply(self, file: File) -> Result<(Bytes, &'static str), Refusal> {
        let mut content = Vec::new();
        file.take(MAX_LENGTH)
            .read_to_end(&mut content)
            .map_err(|error| Refusal::internal(&error))?;
        let not_a_picture = |_| refused("it is no PNG, JPEG or WebP, or damaged");
        let reader = ImageReader::new(Cursor::new(&content));
        let reader = reader.with_guessed_format().map_err(|error| Refusal::internal(&error))?;
        let format = reader.format().filter(|format| is_supported(*format));
        let format = self.format.or(format).unwrap_or(ImageFormat::Png);
        let mut decoder = reader.into_decoder().map_err(not_a_picture)?;
        if decoder.total_bytes() > MAX_DECODED {
            return Err(refused("the picture has too many pixels"));
        }
        let orientation = decoder.orientation().map_err(not_a_picture)?;
        let mut picture = DynamicImage::from_decoder(decoder).map_err(not_a_picture)?;
        if self.auto_orient {
            picture.apply_orientation(orientation);
        }
        if let Some(geometry) = self.geometry {
            let (width, height) = geometry.size(picture.width(), picture.height());
            let bytes = u64::from(width).saturating_mul(u64::from(height)).saturating_mul(4);
            if width.max(height) > MAX_SIDE || bytes > MAX_DECODED {
                return Err(refused("the result would be too large"));
            }
            picture = picture.thumbnail_exact(width, height);
            if let Some((width, height)) = geometry.crop() {
                let (x, y) = (
                    picture.width().saturating_sub(width) / 2,
                    picture.height().saturating_sub(height) / 2,
                );
                picture = picture.crop_imm(x, y, width, height);
            }
        }
        let mut written = Cursor::new(Vec::new());
        let result = match format {
            ImageFormat::Jpeg => {
                let encoder =
                    JpegEncoder::new_with_quality(&mut written, self.quality.unwrap_or(75));
                picture.into_rgb8().write_with_encoder(encoder)
            }
            _ => picture.to_rgba8().write_to(&mut written, format),
        };
        result.map_err(|_| refused("the result cannot be encoded"))?;
        Ok((written.into_inner().into(), format.to_mime_type()))
    }
}

fn is_supported(format: ImageFormat) -> bool {
    matches!(format, ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)
}
