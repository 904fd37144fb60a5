//! The time line as a picture: bars over seconds, one row each, that is readable wherever an image is shown.
//!
//! It is complete in itself: no scripts, no fonts, nothing fetched. Its colours follow the reader's light or dark.

use std::io;

use quick_xml::{
    Writer,
    events::{BytesEnd, BytesStart, BytesText, Event},
};

use crate::{Phase, Report, Span};

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 16.0;
/// Where the phases' names end and those of what they did begin.
const NAMES: f64 = 112.0;
/// The bars' place.
const LEFT: f64 = 344.0;
const RIGHT: f64 = WIDTH - 2.0 * MARGIN;
const ROW: f64 = 22.0;
const BAR: f64 = 14.0;
/// Above a chart's rows, and below them, where the seconds are.
const HEAD: f64 = 40.0;
const FOOT: f64 = 36.0;
/// About the width of a character.
const CHARACTER: f64 = 6.4;
/// Characters of a name that have room.
const LONGEST: usize = 35;
/// Seconds that are none to the reader.
const INSTANT: f64 = 0.05;
/// Lines of the grid at most.
const TICKS: f64 = 8.0;

const STYLE: &str = "
text { font: 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2328; stroke: #ffffff; stroke-width: 3px; paint-order: stroke }
.title { font-size: 14px; font-weight: 600 }
.dim { fill: #59636e }
.failed { fill: #cf222e }
.page { fill: #ffffff }
.grid { stroke: #d1d9e0; stroke-width: 1 }
.firmware { fill: #8c959f }
.ipxe { fill: #bf8700 }
.kernel { fill: #8250df }
.netboot-init { fill: #0969da }
.system { fill: #1a7f37 }
.whole { fill-opacity: 0.35 }
.open { fill-opacity: 0.35; stroke: #cf222e; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc; stroke: #0d1117 }
.dim { fill: #9198a1 }
.failed { fill: #ff7b72 }
.page { fill: #0d1117 }
.grid { stroke: #3d444d }
.firmware { fill: #9198a1 }
.ipxe { fill: #d29922 }
.kernel { fill: #ab7df8 }
.netboot-init { fill: #4493f8 }
.system { fill: #3fb950 }
.open { stroke: #ff7b72 }
}
";

/// The time lines of one or several boots, one below the other, as an SVG image.
///
/// # Errors
/// When the XML cannot be written.
pub fn timeline_svg(reports: &[Report]) -> io::Result<String> {
    let height: f64 = reports.iter().map(|report| chart_height(report.timeline.len())).sum::<f64>() + MARGIN;
    let mut picture = Picture(Writer::new_with_indent(Vec::new(), b' ', 1));
    let mut svg = BytesStart::new("svg");
    svg.push_attribute(("xmlns", "http://www.w3.org/2000/svg"));
    svg.push_attribute(("viewBox", &*format!("0 0 {WIDTH} {height}")));
    svg.push_attribute(("width", &*WIDTH.to_string()));
    svg.push_attribute(("height", &*height.to_string()));
    svg.push_attribute(("role", "img"));
    picture.0.write_event(Event::Start(svg))?;
    let titles: Vec<String> = reports.iter().map(title).collect();
    picture.element("title", &[], &titles.join("; "))?;
    picture.element("style", &[], STYLE)?;
    let page = [("width", WIDTH.to_string()), ("height", height.to_string())];
    picture.shape("rect", "page", &page.each_ref().map(|(key, value)| (*key, value.as_str())))?;
    let mut top = 0.0;
    for (report, title) in reports.iter().zip(&titles) {
        picture.chart(report, title, top)?;
        top += chart_height(report.timeline.len());
    }
    picture.0.write_event(Event::End(BytesEnd::new("svg")))?;
    let mut text = String::from_utf8(picture.0.into_inner()).map_err(io::Error::other)?;
    text.push('\n');
    Ok(text)
}

fn title(report: &Report) -> String {
    let verdict = if report.passed() { "passed" } else { "failed" };
    format!(
        "{} {} over {}, {} MiB, {}: {verdict} in {:.1} s",
        report.name,
        report.version,
        report.path,
        report.memory >> 20,
        report.accelerator.name(),
        report.seconds
    )
}

#[allow(clippy::cast_precision_loss, reason = "rows of a picture")]
fn chart_height(rows: usize) -> f64 {
    HEAD + rows as f64 * ROW + FOOT
}

/// The seconds between two lines of the grid: 1, 2 or 5 times a power of ten.
fn step(seconds: f64) -> f64 {
    let least = (seconds / TICKS).max(0.001);
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= least).unwrap_or(least)
}

fn class(phase: Phase) -> &'static str {
    match phase {
        Phase::Power | Phase::Firmware => "firmware",
        Phase::Ipxe => "ipxe",
        Phase::Kernel => "kernel",
        Phase::NetbootInit => "netboot-init",
        Phase::System | Phase::Probe | Phase::Done => "system",
    }
}

/// Without what XML has no place for, and no longer than there is room: some of it comes from the guest.
fn printable(text: &str, longest: usize) -> String {
    let mut text: String = text.chars().filter(|c| !c.is_control()).collect();
    if let Some((cut, _)) = text.char_indices().nth(longest) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

struct Picture(Writer<Vec<u8>>);

impl Picture {
    fn chart(&mut self, report: &Report, title: &str, top: f64) -> io::Result<()> {
        let spans = &report.timeline;
        let last = spans.iter().map(|span| span.to.unwrap_or(report.seconds)).fold(0.1, f64::max);
        let scale = (RIGHT - LEFT) / last;
        let rows = top + HEAD;
        let bottom = top + chart_height(spans.len()) - FOOT;
        self.text("title", (MARGIN, top + 24.0), "start", title)?;
        let step = step(last);
        let decimals = if step < 0.1 { 2 } else { usize::from(step < 1.0) };
        let mut tick = 0.0;
        while tick <= last {
            let x = format!("{:.1}", LEFT + tick * scale);
            let line = [("x1", &*x), ("x2", &*x), ("y1", &*rows.to_string()), ("y2", &*bottom.to_string())];
            self.shape("line", "grid", &line)?;
            self.text("dim", (LEFT + tick * scale, bottom + 16.0), "middle", &format!("{tick:.decimals$} s"))?;
            tick += step;
        }
        let mut before = None;
        let mut y = rows;
        for span in spans {
            if before != Some(span.phase) {
                self.text("", (MARGIN, y + 15.0), "start", &span.phase.to_string())?;
            }
            before = Some(span.phase);
            self.row(span, y, scale, last)?;
            y += ROW;
        }
        Ok(())
    }

    fn row(&mut self, span: &Span, y: f64, scale: f64, last: f64) -> io::Result<()> {
        self.text("dim", (NAMES, y + 15.0), "start", &printable(&span.what, LONGEST))?;
        let (from, to) = (LEFT + span.from * scale, LEFT + span.to.unwrap_or(last) * scale);
        let kind = match (span.to, span.phase) {
            (None, _) => " open",
            // Its units are the ones that work.
            (Some(_), Phase::System) if span.what.is_empty() => " whole",
            _ => "",
        };
        let numbers = [from, y + (ROW - BAR) / 2.0, (to - from).max(1.5), BAR].map(|number| format!("{number:.1}"));
        let [x, top, width, height] = numbers.each_ref().map(String::as_str);
        let place = [("x", x), ("y", top), ("width", width), ("height", height), ("rx", "2")];
        self.shape("rect", &format!("{}{kind}", class(span.phase)), &place)?;
        let took = match span.to {
            // A target is a moment.
            Some(to) if to - span.from < INSTANT => format!("at {:.1} s", span.from),
            Some(to) => format!("{:.1} s", to - span.from),
            None => "not done".to_owned(),
        };
        let detail = printable(&span.detail, 2 * LONGEST);
        let label = if detail.is_empty() { took } else { format!("{took}, {detail}") };
        #[allow(clippy::cast_precision_loss, reason = "a short text")]
        let wide = label.chars().count() as f64 * CHARACTER;
        let class = if span.to.is_none() { "failed" } else { "" };
        let (x, anchor) = match () {
            () if to + 6.0 + wide <= RIGHT => (to + 6.0, "start"),
            () if from - 6.0 - wide >= LEFT => (from - 6.0, "end"),
            () => (RIGHT - 4.0, "end"),
        };
        self.text(class, (x, y + 15.0), anchor, &label)
    }

    fn text(&mut self, class: &str, (x, y): (f64, f64), anchor: &str, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let (x, y) = (format!("{x:.1}"), format!("{y:.1}"));
        let mut attributes = vec![("x", x.as_str()), ("y", y.as_str())];
        if anchor != "start" {
            attributes.push(("text-anchor", anchor));
        }
        if !class.is_empty() {
            attributes.push(("class", class));
        }
        self.element("text", &attributes, text)
    }

    fn shape(&mut self, name: &str, class: &str, attributes: &[(&str, &str)]) -> io::Result<()> {
        self.0
            .create_element(name)
            .with_attribute(("class", class))
            .with_attributes(attributes.to_vec())
            .write_empty()?;
        Ok(())
    }

    fn element(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) -> io::Result<()> {
        self.0.create_element(name).with_attributes(attributes.to_vec()).write_text_content(BytesText::new(text))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::tests::{failed, whole};
    use crate::{Accelerator, BootPath, Cause, Failure};

    fn report(timeline: Vec<Span>, seconds: f64, cause: Option<Cause>) -> Report {
        Report {
            name: "worker".to_owned(),
            version: "1.4.2".to_owned(),
            path: BootPath::PxeBios,
            accelerator: Accelerator::Tcg,
            memory: 2 << 30,
            fault: None,
            tests: Vec::new(),
            facts: Default::default(),
            reached: Vec::new(),
            timeline,
            failure: cause.map(|cause| Failure {
                cause,
                phase: Phase::NetbootInit,
                advice: String::new(),
                refused: Vec::new(),
                console: Vec::new(),
            }),
            seconds,
            results: "/results".into(),
        }
    }

    /// `IMGBUILD_WRITE_GOLDEN=1 cargo test -p imgbuild-boot svg` writes the picture anew; then look at it.
    #[test]
    fn the_picture_is_the_one_that_was_looked_at() {
        let reports = [report(whole(), 52.5, None), report(failed(), 20.0, Some(Cause::Timeout { seconds: 20 }))];
        let svg = timeline_svg(&reports).unwrap();
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/timeline.svg");
        if std::env::var_os("IMGBUILD_WRITE_GOLDEN").is_some() {
            std::fs::write(golden, &svg).unwrap();
        }
        assert_eq!(svg, std::fs::read_to_string(golden).unwrap());
        assert!(svg.len() < 16 << 10, "{} bytes", svg.len());
    }

    #[test]
    fn a_guests_words_stay_words() {
        let mut span = failed().remove(0);
        span.what = format!("</text><script>\u{0}\u{1b}{}", "x".repeat(1000));
        span.detail = "a & b \"c\"".to_owned();
        let svg = timeline_svg(&[report(vec![span], 1.0, None)]).unwrap();
        assert!(!svg.contains("<script") && !svg.contains('\u{1b}') && svg.contains("&lt;script&gt;xxx"), "{svg}");
        assert!(!svg.contains(&"x".repeat(100)) && svg.contains("a &amp; b "), "{svg}");
    }

    #[test]
    fn the_grid_is_of_round_numbers() {
        for (seconds, expected) in [(52.5, 10.0), (8.0, 1.0), (1.2, 0.2), (700.0, 100.0), (17.0, 5.0)] {
            assert!((step(seconds) - expected).abs() < 1e-9, "{seconds}: {}", step(seconds));
        }
        assert!(step(0.0) > 0.0);
    }
}
