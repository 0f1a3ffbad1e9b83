//! Pages read back: their data, and of figures what the pointer finds.
#![allow(dead_code, reason = "every test binary uses another part")]

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

/// The data of a page.
pub fn data(page: &str) -> Value {
    let (_, rest) = page.split_once(r#"<script type="application/json" id="data">"#).unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

/// Numbers that a page holds as 32-bit floats.
pub fn floats(packed: &Value) -> Vec<f32> {
    let bytes = BASE64_STANDARD.decode(packed["f32"].as_str().unwrap()).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// What the page of a figure tells of every cell, point and bar.
pub fn values(page: &str) -> Vec<String> {
    data(page)["facets"].as_array().unwrap().iter().flat_map(of_facet).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Six digits, as the pointer is told.
fn precise(value: f64) -> String {
    format!("{value:.5e}").parse::<f64>().unwrap().to_string()
}

fn number(value: &Value) -> String {
    value.as_f64().map_or("not measured".into(), precise)
}

fn of_facet(facet: &Value) -> Vec<String> {
    let (plot, [x, y]) = (&facet["plot"], ["x", "y"].map(|axis| text(&facet[axis]["label"])));
    let series = |plot: &Value| plot["series"].as_array().cloned().unwrap_or_default();
    if let Some(map) = plot.get("heat_map") {
        let (rows, columns) = (list(&map["rows"]), list(&map["columns"]));
        let title = if facet["title"] == "" { String::new() } else { format!("{}\n", text(&facet["title"])) };
        let cell = |(index, value): (usize, f32)| {
            let (row, column) = (text(&rows[index / columns.len()]), text(&columns[index % columns.len()]));
            let value = if value.is_nan() { "not measured".into() } else { precise(value.into()) };
            format!("{title}{y}: {row}\n{x}: {column}\n{}: {value}", text(&map["measure"]))
        };
        return floats(&map["values"]).into_iter().enumerate().map(cell).collect();
    }
    if let Some(classes) = plot.get("scatter") {
        let of_class = |class: &Value| {
            let name = text(&class["name"]).to_owned();
            let told = move |point: &Value| {
                let label = match text(&point["label"]) {
                    "" => String::new(),
                    label => format!("{label}\n"),
                };
                format!("{label}{name}\n({}, {})", number(&point["x"]), number(&point["y"]))
            };
            list(&class["points"]).iter().map(told).collect::<Vec<_>>()
        };
        return list(classes).iter().flat_map(of_class).collect();
    }
    if let Some(bars) = plot.get("bars") {
        let told = |one: Value| {
            let bar =
                |(label, value): (&Value, &Value)| format!("{}\n{}: {}", text(label), text(&one[0]), number(value));
            list(&bars["labels"]).iter().zip(list(&one[1])).map(bar).collect::<Vec<_>>()
        };
        return series(bars).into_iter().flat_map(told).collect();
    }
    if let Some(histogram) = plot.get("histogram") {
        let told = |one: Value| {
            let bin = |(edges, value): (&[Value], &Value)| {
                format!("{}\n{} to {}: {}", text(&one[0]), number(&edges[0]), number(&edges[1]), number(value))
            };
            list(&histogram["edges"]).windows(2).zip(list(&one[1])).map(bin).collect::<Vec<_>>()
        };
        return series(histogram).into_iter().flat_map(told).collect();
    }
    let lines = plot.get("lines").or(plot.get("areas")).unwrap();
    let told = |line: &Value| {
        let point =
            |point: &Value| format!("{}\n{x}: {}\n{y}: {}", text(&line["name"]), number(&point[0]), number(&point[1]));
        list(&line["points"]).iter().map(point).collect::<Vec<_>>()
    };
    list(lines).iter().flat_map(told).collect()
}
