use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    crossterm::event::KeyCode,
    style::{Color, Modifier},
};
use time::Duration;
use uuid::Uuid;

use super::super::model::{
    Effect, Msg,
    tests::{data, model, now, press, story},
};
use super::*;
use crate::domain::MessageId;

const MODERN: Theme = Theme { colour: true, ascii: false };
const BARE: Theme = Theme { colour: false, ascii: true };

fn drawn(model: &Model, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model)).unwrap();
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let width = usize::from(buffer.area.width);
    let rows = buffer.content().chunks(width);
    rows.map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect()).collect()
}

fn text(model: &Model, width: u16, height: u16) -> String {
    lines(&drawn(model, width, height)).join("\n")
}

fn shows(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "{wanted} is not in\n{text}");
    }
}

#[test]
fn everything_is_there_at_80_by_24() {
    let text = text(&model(MODERN), 80, 24);
    shows(
        &text,
        &[
            "esh3ar top",
            "OK   all healthy",
            "data 1s old",
            "Flow 1,200 open connections",
            "accepted ",
            "p50",
            "51 ms",
            "Waiting 20,000+ messages",
            "19,990",
            "3m",
            "gateway host1:101",
            "worker  host2:102",
            "OK   database  0.4 ms",
            "OK   broker    RabbitMQ 3.10.8",
            "OK   redis     in process",
            "▸Dead letters 2 · recipient 2",
            "+967*******67",
            "42s",
            "FLIGHT",
            "q quit",
        ],
    );
    assert!(!text.contains("+967771234567"), "numbers are masked\n{text}");
    // Nothing runs over an edge: each row of panels ends in a border.
    for line in text.lines().skip(1).take(22) {
        assert!(line.ends_with(['╮', '│', '╯']), "{line}");
    }
}

#[test]
fn a_large_terminal_shows_more() {
    let text = text(&model(MODERN), 200, 60);
    shows(
        &text,
        &[
            "p99.9",
            "in all",
            "24,690 total",
            "http://10.0.0.1:5000",
            "70 MB",
            "38 MB · 12 of 64 connections",
            "OLDEST IN FLIGHT",
            "wait for offline recipients",
            "the device was connected and did not acknowledge",
            "00000000-0000-0000-0000-00000000004d",
            "connected",
        ],
    );
}

#[test]
fn a_small_one_shows_a_panel_at_a_time() {
    let mut model = model(MODERN);
    let letters = text(&model, 40, 10);
    shows(
        &letters,
        &["all healthy", "in 57.0  out 28.2  wait 20,000+  dead 2", "Dead letters", "recipient"],
    );
    for (panel, wanted) in [
        (Panel::Flow, "delivered"),
        (Panel::Lanes, "normal"),
        (Panel::Nodes, "host1:101"),
        (Panel::Parts, "database"),
        (Panel::Recipients, "+967*******67"),
    ] {
        model.focus = panel;
        shows(&text(&model, 40, 10), &[wanted]);
    }
}

#[test]
fn every_size_and_every_screen_can_be_drawn() {
    for theme in [MODERN, BARE] {
        for (width, height) in
            [(1, 1), (5, 3), (24, 5), (30, 8), (40, 10), (76, 20), (80, 24), (131, 31), (300, 90)]
        {
            let empty = Model::new(theme, true, true, now());
            drawn(&empty, width, height);
            let mut model = model(theme);
            for panel in Panel::ALL {
                model.focus = panel;
                drawn(&model, width, height);
                press(&mut model, KeyCode::Enter);
                let id = MessageId(Uuid::from_u128(1001));
                model.update(Msg::Explained(id, Box::new(Ok(story()))));
                drawn(&model, width, height);
                press(&mut model, KeyCode::PageDown);
                drawn(&model, width, height);
                press(&mut model, KeyCode::Char('r'));
                drawn(&model, width, height);
                press(&mut model, KeyCode::Esc);
                press(&mut model, KeyCode::Esc);
                press(&mut model, KeyCode::Char('?'));
                drawn(&model, width, height);
                press(&mut model, KeyCode::Esc);
                press(&mut model, KeyCode::Char('/'));
                press(&mut model, KeyCode::Char('x'));
                drawn(&model, width, height);
                press(&mut model, KeyCode::Esc);
            }
        }
    }
}

#[test]
fn without_colour_and_unicode_it_says_the_same() {
    let mut model = model(BARE);
    for _ in 0..2 {
        let buffer = drawn(&model, 80, 24);
        for cell in buffer.content() {
            assert!((cell.fg, cell.bg) == (Color::Reset, Color::Reset), "{cell:?}");
            assert!(cell.symbol().is_ascii(), "{cell:?}");
        }
        shows(&lines(&buffer).join("\n"), &["OK ", "+---", "|"]);
        press(&mut model, KeyCode::Enter);
        let id = MessageId(Uuid::from_u128(1001));
        model.update(Msg::Explained(id, Box::new(Ok(story()))));
    }
    // The chosen row is told without colour, too.
    press(&mut model, KeyCode::Esc);
    let buffer = drawn(&model, 80, 24);
    let reversed = buffer.content().iter().filter(|c| c.modifier.contains(Modifier::REVERSED));
    assert!(reversed.count() > 40);
}

#[test]
fn a_letter_shows_its_story_and_the_commands_for_it() {
    let mut model = model(MODERN);
    press(&mut model, KeyCode::Enter);
    shows(&text(&model, 80, 24), &["Loading the timeline", "esh3ar dlq show 00000000-"]);
    let id = MessageId(Uuid::from_u128(1001));
    model.update(Msg::Explained(id, Box::new(Ok(story()))));
    let shown = text(&model, 100, 30);
    shows(
        &shown,
        &[
            "Dead letter 00000000-0000-0000-0000-000000000001",
            "to         +967*******67",
            "It was given up after seven attempts.",
            "Next: esh3ar dlq requeue 1",
            "accepted and durable",
            "+1 m",
            "failed",
            "$ esh3ar message explain 00000000-0000-0000-0000-0000000003e9",
        ],
    );
    assert!(!shown.contains("secret"), "contents are nobody's business here");
    let asked = press(&mut model, KeyCode::Char('n'));
    assert_eq!(asked, Some(Effect::Refresh), "whole numbers have to be asked for");
    shows(&text(&model, 100, 30), &["to         +967771234567"]);
    // What does not fit is scrolled to, and not past.
    let small = text(&model, 60, 12);
    shows(&small, &["more below"]);
    press(&mut model, KeyCode::PageDown);
    press(&mut model, KeyCode::PageDown);
    press(&mut model, KeyCode::PageDown);
    shows(&text(&model, 60, 12), &["esh3ar dlq requeue"]);
    press(&mut model, KeyCode::Char('r'));
    shows(&text(&model, 80, 24), &["Requeue this dead letter?", "Press y to requeue it"]);
}

#[test]
fn trouble_is_told_first_and_the_data_keep_their_age() {
    let mut model = model(BARE);
    model.update(Msg::Refreshed(Err("the database cannot be reached".to_owned())));
    model.update(Msg::Tick(now() + Duration::seconds(13)));
    let first = lines(&drawn(&model, 80, 24)).remove(0);
    shows(&first, &["FAIL the database cannot be reached", "data 14s old"]);
    shows(&text(&model, 80, 24), &["host1:101"]);
    let never = {
        let mut model = Model::new(BARE, false, false, now());
        model.update(Msg::Refreshed(Err("nobody is there".to_owned())));
        text(&model, 80, 24)
    };
    shows(&never, &["FAIL nobody is there", "esh3ar doctor"]);
}

#[test]
fn the_worst_part_is_what_the_first_line_says() {
    let mut data = data();
    for node in &mut data.stats.nodes {
        for part in &mut node.parts {
            if part.name == "rabbitmq" {
                part.up = false;
                part.fault = Some("refused".to_owned());
            }
        }
    }
    let told = state::overall(&data.stats);
    let wanted = "broker: gateway host1:101 and 1 more of 2: refused";
    assert_eq!(told, (Health::Warn, wanted.to_owned()));
    data.stats.nodes.retain(|node| node.role != "worker");
    let (health, sentence) = state::overall(&data.stats);
    assert_eq!(
        (health, sentence.starts_with("delivery: no process delivers")),
        (Health::Fail, true)
    );
    // The report says it in the same words.
    let page = super::super::report::page(&data.stats);
    shows(
        &page,
        &["FAIL delivery: no process delivers", "WARN broker", "Waiting", "20,000+", "p99.9"],
    );
}
