//! Figures read back: what a reader or a script would find in the SVG, the PNG and the HTML.

mod support;

#[path = "support/pages.rs"]
mod pages;

use actpatch::report::figure::{
    Axis, Bars, Class, FONT_FAMILY, Facet, Figure, HeatMap, Histogram, Plot, Point, Scale, Series,
};
use std::collections::BTreeSet;
use std::path::Path;

fn facet(title: &str, x: &str, y: &str, plot: Plot) -> Facet {
    Facet { title: title.into(), x: Axis::new(x), y: Axis::new(y), plot }
}

fn series(name: &str, points: &[(f64, f64)]) -> Series {
    Series { name: name.into(), points: points.to_vec(), baseline: false }
}

fn heat_map(scale: Scale, decimals: Option<usize>) -> HeatMap {
    HeatMap {
        rows: vec!["0".into(), "1".into()],
        columns: vec!["ADJ & co".into(), "<END>".into(), "VRB".into()],
        values: vec![Some(-40.0), Some(0.0), None, Some(87.125), Some(12.5), Some(3.0)],
        scale,
        measure: "logit difference recovered (%)".into(),
        decimals,
    }
}

/// One facet of every kind.
fn every_kind() -> Vec<Facet> {
    let lines = vec![
        series("das", &[(0.0, 10.0), (1.0, 60.0), (2.0, 97.5)]),
        series("kmeans", &[(0.0, 8.0), (1.0, 55.0), (2.0, 72.25)]),
        Series { baseline: true, ..series("random_direction", &[(0.0, 1.0), (1.0, -0.5), (2.0, 3.0)]) },
    ];
    let point = |x, y, label: &str| Point { x, y, label: label.into() };
    let classes = vec![
        Class { name: "positive".into(), points: vec![point(1.0, 2.0, " great"), point(1.5, 2.5, " fantastic")] },
        Class { name: "negative".into(), points: vec![point(-1.0, -2.0, " bad"), point(-1.0, 0.5, "")] },
    ];
    let bars = Bars {
        labels: vec!["L10H4".into(), "L7H1".into()],
        series: vec![("direct".into(), vec![Some(0.75), Some(-0.125)]), ("total".into(), vec![Some(0.5), None])],
    };
    let histogram =
        Histogram { edges: vec![0.0, 1.0, 2.0, 4.0], series: vec![("cosines".into(), vec![3.0, 7.0, 1.0])] };
    let areas = vec![series("Negative", &[(0.0, 0.25), (1.0, 0.5)]), series("Positive", &[(0.0, 0.75), (1.0, 0.5)])];
    vec![
        facet("map", "position", "layer", Plot::HeatMap(heat_map(Scale::Diverging, Some(1)))),
        facet("lines", "layer", "recovered (%)", Plot::Lines(lines)),
        facet("points", "PC 1", "PC 2", Plot::Scatter(classes)),
        facet("bars", "logit difference", "head", Plot::Bars(bars)),
        facet("histogram", "cosine", "neurons", Plot::Histogram(histogram)),
        facet("areas", "activation", "share", Plot::Areas(areas)),
    ]
}

fn texts(svg: &str) -> Vec<String> {
    let document = roxmltree::Document::parse(svg).unwrap();
    let nodes = document.descendants().filter(|node| node.has_tag_name("text"));
    nodes.map(|node| node.text().unwrap_or_default().trim().to_owned()).collect()
}

/// Letters that the pictures' font lacks stand there as their numbers, and the page, which has the reader's fonts, has them.
#[test]
fn letters_without_a_glyph_are_written_as_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let class = Class { name: "words".into(), points: vec![Point { x: 0.0, y: 1.0, label: "👍".into() }] };
    let facet = Facet {
        title: String::new(),
        x: Axis::new("電影 café Ω"),
        y: Axis::new("y"),
        plot: Plot::Scatter(vec![class]),
    };
    Figure::new("ก", vec![facet]).write(folder.path(), "scripts").unwrap();
    let found = texts(&String::from_utf8(read(folder.path(), "scripts.svg")).unwrap());
    for text in [r"\u{e01}", r"\u{96fb}\u{5f71} café Ω", r"\u{1f44d}"] {
        assert!(found.iter().any(|line| line == text), "{text:?} is not in {found:?}");
    }
    let page = String::from_utf8(read(folder.path(), "scripts.html")).unwrap();
    assert!(page.contains("電影 café Ω") && page.contains("👍"));
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).unwrap()
}

#[test]
fn four_files_hold_the_values() {
    let folder = tempfile::tempdir().unwrap();
    let figure =
        Figure { caption: "Best layers are chosen on the test set.".into(), ..Figure::new("Every kind", every_kind()) };
    let written = figure.write(folder.path(), "every").unwrap();
    assert_eq!(written.len(), 4);
    let svg = String::from_utf8(read(folder.path(), "every.svg")).unwrap();
    let found = texts(&svg);
    for text in [
        "Every kind",
        "Best layers are chosen on the test set.",
        "map",
        "position",
        "layer",
        "ADJ & co",
        "<END>",
        "87.1",
        "\u{2212}40.0",
        "recovered (%)",
        "das",
        "kmeans",
        "random_direction",
        "PC 1",
        "great",
        "fantastic",
        "bad",
        "positive",
        "negative",
        "L10H4",
        "cosine",
        "neurons",
        "activation",
        "Positive",
        "not measured",
    ] {
        assert!(found.iter().any(|line| line == text), "{text:?} is not in {found:?}");
    }
    let page = String::from_utf8(read(folder.path(), "every.html")).unwrap();
    let values = pages::values(&page);
    for value in [
        "map\nlayer: 1\nposition: ADJ & co\nlogit difference recovered (%): 87.125",
        "map\nlayer: 0\nposition: VRB\nlogit difference recovered (%): not measured",
        "kmeans\nlayer: 2\nrecovered (%): 72.25",
        " great\npositive\n(1, 2)",
        "negative\n(-1, 0.5)",
        "L7H1\ndirect: -0.125",
        "L7H1\ntotal: not measured",
        "cosines\n1 to 2: 7",
        "Positive\nactivation: 0\nshare: 0.75",
    ] {
        assert!(values.iter().any(|found| found == value), "{value:?} is not in {values:#?}");
    }
    let elsewhere = page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "");
    assert!(!elsewhere.contains("http") && !elsewhere.contains("src=") && !elsewhere.contains("@import"));
    assert!(page.contains("Every kind</title>"));

    let png = read(folder.path(), "every.png");
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
    let side = |from: usize| u32::from_be_bytes(png[from..from + 4].try_into().unwrap());
    let root = roxmltree::Document::parse(&svg).unwrap();
    let length = |name| root.root_element().attribute(name).unwrap().parse::<f64>().unwrap();
    assert_eq!((f64::from(side(16)), f64::from(side(20))), (3.0 * length("width"), 3.0 * length("height")));
    assert!(svg.contains(FONT_FAMILY));
}

#[test]
fn a_diverging_scale_is_white_at_zero() {
    let colours = |values: Vec<Option<f64>>, scale| {
        let map = HeatMap { values, ..heat_map(scale, None) };
        let svg = Figure::new("", vec![facet("", "x", "y", Plot::HeatMap(map))]).svg().unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let fills = document.descendants().filter(|node| node.has_tag_name("rect")).skip(1).take(6);
        fills.map(|node| node.attribute("fill").unwrap().to_owned()).collect::<Vec<_>>()
    };
    let found = colours([-10.0, 0.0, 10.0, 5.0, 2.0, 1.0].map(Some).to_vec(), Scale::Diverging);
    let channels = |colour: &str| [1, 3, 5].map(|from| u32::from_str_radix(&colour[from..from + 2], 16).unwrap());
    // As far from zero on both sides, the same darkness; at zero nearly white; red below, blue above.
    assert!(channels(&found[1]).iter().all(|channel| *channel > 235), "{found:?}");
    let (low, high) = (channels(&found[0]), channels(&found[2]));
    assert!(low[0] > low[2] && high[2] > high[0], "{found:?}");
    // All of one sign: zero stays white, the scale is not stretched over the data.
    let one_sided = colours([10.0, 0.0, 10.0, 5.0, 2.0, 1.0].map(Some).to_vec(), Scale::Diverging);
    assert_eq!((&one_sided[0], &one_sided[1]), (&found[2], &found[1]));
    let reds = colours([0.0, 100.0, 150.0, 50.0, 2.0, 1.0].map(Some).to_vec(), Scale::Reds { low: 0.0, high: 100.0 });
    assert_eq!(reds[1], reds[2], "beyond the scale's end its last colour is used");
}

#[test]
fn one_name_has_one_colour_in_every_facet() {
    let one = |names: [&str; 2]| {
        let lines = names.map(|name| series(name, &[(0.0, 0.0), (1.0, 1.0)]));
        facet(names[0], "layer", "percent", Plot::Lines(lines.to_vec()))
    };
    let svg = Figure::new("", vec![one(["das", "pca"]), one(["pca", "kmeans"])]).svg().unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let strokes = document.descendants().filter(|node| node.has_tag_name("polyline"));
    let colours: BTreeSet<&str> = strokes
        .filter(|node| node.attribute("stroke-width") == Some("16"))
        .filter_map(|node| node.attribute("stroke"))
        .collect();
    assert_eq!(colours.len(), 3, "{colours:?}");
    assert_eq!(
        texts(&svg).iter().filter(|text| *text == "pca").count(),
        2,
        "a facet's title and one line of the legend"
    );
}

#[test]
fn labels_of_a_scatter_plot_do_not_overlap() {
    let crowd =
        (0..40).map(|n| Point { x: f64::from(n % 7) * 0.01, y: f64::from(n) * 0.01, label: format!("word{n}") });
    let far = Point { x: 10.0, y: 10.0, label: "alone".into() };
    let class = Class { name: "all".into(), points: crowd.chain([far]).collect() };
    let svg = Figure::new("", vec![facet("", "x", "y", Plot::Scatter(vec![class]))]).svg().unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let place = |node: roxmltree::Node, axis| node.attribute(axis).unwrap().parse::<f64>().unwrap();
    let labels: Vec<(f64, f64)> = document
        .descendants()
        .filter(|node| node.has_tag_name("text"))
        .filter(|node| node.text().is_some_and(|text| text.trim().starts_with("word") || text.trim() == "alone"))
        .map(|node| (place(node, "x"), place(node, "y")))
        .collect();
    assert!(labels.len() > 3 && labels.len() < 41, "{}", labels.len());
    // "word0" is 27 pixels wide and a line 11 high; a pixel is 10 units.
    for (index, a) in labels.iter().enumerate() {
        for b in &labels[..index] {
            assert!((a.0 - b.0).abs() >= 270.0 || (a.1 - b.1).abs() >= 109.0, "{a:?} {b:?}");
        }
    }
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |facets: Vec<Facet>, words: &[&str]| {
        let message = Figure::new("Broken", facets).write(folder.path(), "broken").unwrap_err().to_string();
        for word in ["Broken"].iter().chain(words) {
            assert!(message.contains(word), "{word:?} is not in {message}");
        }
    };
    refused(vec![], &["facets"]);
    let map = HeatMap { values: vec![Some(1.0)], ..heat_map(Scale::Sequential, None) };
    refused(vec![facet("gpt2", "x", "y", Plot::HeatMap(map))], &["gpt2", "values", "6", "1"]);
    refused(vec![facet("", "x", "y", Plot::Lines(vec![series("das", &[(0.0, f64::NAN)])]))], &["finite", "NaN"]);
    refused(vec![facet("", "x", "y", Plot::Lines(vec![]))], &["at least one"]);
    let bars = Bars { labels: vec!["a".into()], series: vec![("s".into(), vec![])] };
    refused(vec![facet("", "x", "y", Plot::Bars(bars))], &["values"]);
    let uneven = vec![series("a", &[(0.0, 1.0)]), series("b", &[])];
    refused(vec![facet("", "x", "y", Plot::Areas(uneven))], &["points"]);
    let mut odd = facet("", "x", "y", Plot::Lines(vec![series("a", &[(0.0, 1.0)])]));
    odd.x.range = Some((1.0, f64::INFINITY));
    refused(vec![odd], &["range"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_drawn_beside_its_data_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let figure =
        Figure::new("No number", vec![facet("", "x", "y", Plot::Lines(vec![series("das", &[(0.0, f64::NAN)])]))]);
    let (paths, said) = support::warnings(|| figure.write_beside_data(folder.path(), "broken").unwrap());
    assert!(paths.is_empty() && said.contains("broken is not drawn, its data are there") && said.contains("NaN"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn odd_but_legal_data_is_drawn() {
    // One value, zero, huge, tiny; names with control characters and mark-up; a map of one cell; 200 columns.
    let mut facets = vec![
        facet("one", "x", "y", Plot::Lines(vec![series("\u{1}<b>&\"", &[(3.0, 0.0)])])),
        facet("huge", "x", "y", Plot::Lines(vec![series("huge", &[(0.0, 1e300), (1.0, -1e300)])])),
        facet("tiny", "x", "y", Plot::Lines(vec![series("tiny", &[(0.0, 1e-300), (1.0, 2e-300)])])),
        facet(
            "equal",
            "x",
            "y",
            Plot::Histogram(Histogram { edges: vec![0.0, 1.0], series: vec![("n".into(), vec![0.0])] }),
        ),
    ];
    facets.truncate(4);
    let svg = Figure::new("odd", facets).svg().unwrap();
    assert!(texts(&svg).iter().any(|text| text == r#"\u{1}<b>&""#));
    let wide = HeatMap {
        rows: vec!["r".into()],
        columns: (0..200).map(|n| n.to_string()).collect(),
        values: vec![Some(1.0); 200],
        scale: Scale::Sequential,
        measure: "m".into(),
        decimals: None,
    };
    let labels = texts(&Figure::new("wide", vec![facet("", "x", "y", Plot::HeatMap(wide))]).svg().unwrap());
    assert!(labels.len() < 100, "labels are thinned out: {}", labels.len());
}

/// A map of so many rows and columns.
fn large(rows: usize, columns: usize, value: impl Fn(usize) -> f64) -> Figure {
    let map = HeatMap {
        rows: (0..rows).map(|row| row.to_string()).collect(),
        columns: (0..columns).map(|column| column.to_string()).collect(),
        values: (0..rows * columns).map(|index| Some(value(index))).collect(),
        scale: Scale::Diverging,
        measure: "m".into(),
        decimals: None,
    };
    Figure::new("Large", vec![facet("", "position", "layer", Plot::HeatMap(map))])
}

#[test]
fn a_map_of_many_positions_is_drawn_in_bands() {
    let svg = large(12, 2000, |index| (index % 7) as f64).svg().unwrap();
    let root = roxmltree::Document::parse(&svg).unwrap();
    let length = |name| root.root_element().attribute(name).unwrap().parse::<f64>().unwrap();
    assert!(length("width") < 1200.0 && length("height") > 10.0 * 12.0 * 12.0, "no sliver: {svg:.200}");
    let found = texts(&svg);
    for band in ["position 0 to 199", "position 1800 to 1999"] {
        assert!(found.iter().any(|text| text == band), "{band}: {found:?}");
    }
}

#[test]
fn cells_of_one_colour_are_one_shape_where_there_are_many() {
    let rectangles = |figure: Figure| figure.svg().unwrap().matches("<rect").count();
    let square = |side: usize| move |index: usize| if index % side > index / side { 0.0 } else { index as f64 };
    let many = rectangles(large(99, 99, square(99)));
    assert!(many < 99 * 100 / 2 + 99 + 200, "{many}: what is above the diagonal is one shape a row");
    assert!(rectangles(large(20, 20, square(20))) > 400);
}

#[test]
fn a_figure_that_is_too_large_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let facet = large(190, 190, |index| (index * 7919 % 1000) as f64).facets.remove(0);
    let figure = Figure::new("Huge", vec![facet; 8]);
    let message = figure.write(folder.path(), "huge").unwrap_err().to_string();
    assert!(message.contains("\"Huge\": drawing: expected at most 20 MB, found 2"), "{message}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
