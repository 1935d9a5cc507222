//! Templates: literal text and variables, each encoded for the place where it stands.

use super::{
    position::Position,
    variables::{SmsValues, SmsVariable},
};

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Variable(SmsVariable, Position),
}

/// A URL, header or body with variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SmsTemplate(Vec<Piece>);

/// The form of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyForm {
    /// `application/x-www-form-urlencoded`
    Form,
    /// JSON
    Json,
    /// XML
    Xml,
}

impl BodyForm {
    /// The form of a content type.
    ///
    /// # Errors
    /// A value could not be encoded in another form.
    pub fn of(content_type: &str) -> Result<BodyForm, String> {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "application/x-www-form-urlencoded" => Ok(BodyForm::Form),
            "application/xml" | "text/xml" => Ok(BodyForm::Xml),
            "application/json" => Ok(BodyForm::Json),
            name if name.ends_with("+json") => Ok(BodyForm::Json),
            name if name.ends_with("+xml") => Ok(BodyForm::Xml),
            _ => Err("must be application/x-www-form-urlencoded, application/json or \
                      application/xml"
                .to_owned()),
        }
    }
}

/// A part of a text: literal, or the name of a variable.
enum Token<'a> {
    Literal(&'a str),
    Variable(SmsVariable),
}

/// A brace that begins no name is literal: JSON has many of them.
fn tokens(text: &str) -> Result<Vec<Token<'_>>, String> {
    let mut found = Vec::new();
    let (mut start, mut from) = (0, 0);
    while let Some(at) = text[from..].find('{').map(|at| from + at) {
        let rest = &text[at + 1..];
        let name = rest.split('}').next().unwrap_or_default();
        let is_name = !name.is_empty()
            && name.len() < rest.len()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        from = at + 1;
        if is_name {
            if start < at {
                found.push(Token::Literal(&text[start..at]));
            }
            found.push(Token::Variable(SmsVariable::parse(name)?));
            from = at + name.len() + 2;
            start = from;
        }
    }
    if start < text.len() {
        found.push(Token::Literal(&text[start..]));
    }
    Ok(found)
}

/// The error for a variable where no value can be encoded.
fn misplaced(variable: SmsVariable, place: &str) -> String {
    format!("has {{{}}} {place}", variable.name())
}

impl SmsTemplate {
    /// Parses a URL. Its scheme and host have no variables.
    ///
    /// # Errors
    /// What is wrong with it; the text follows the name of the key.
    pub fn url(text: &str) -> Result<SmsTemplate, String> {
        let tokens = tokens(text)?;
        let host_end = text.find("://").map_or(0, |at| at + 3);
        let rest = text.get(host_end..).unwrap_or_default();
        let host_end = host_end + rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (mut pieces, mut length, mut in_query) = (Vec::new(), 0, false);
        for token in tokens {
            match token {
                Token::Literal(literal) => {
                    percent_encoded(literal)?;
                    if literal.contains(['#', '{', '}', '"', '<', '>', '\\', '^', '`', '|'])
                        || !literal.bytes().all(|byte| byte.is_ascii_graphic())
                    {
                        return Err("has a character that a URL cannot have; write it in percent \
                                    encoding, and write no fragment (#)"
                            .to_owned());
                    }
                    in_query |= literal.contains('?');
                    length += literal.len();
                    pieces.push(Piece::Literal(literal.to_owned()));
                }
                Token::Variable(variable) => {
                    if length < host_end {
                        return Err(misplaced(variable, "in its scheme or host"));
                    }
                    // As a whole segment, two dots would lead to another path.
                    if !in_query && variable == SmsVariable::Text {
                        return Err(misplaced(variable, "in its path"));
                    }
                    length += variable.name().len() + 2;
                    pieces.push(Piece::Variable(variable, Position::Percent));
                }
            }
        }
        Ok(SmsTemplate(pieces))
    }

    /// Parses the value of a header.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn header(text: &str) -> Result<SmsTemplate, String> {
        if text.chars().any(|c| c.is_control() || !c.is_ascii()) {
            return Err("has a control character or one outside ASCII".to_owned());
        }
        let pieces = tokens(text)?.into_iter().map(|token| match token {
            Token::Literal(literal) => Piece::Literal(literal.to_owned()),
            Token::Variable(variable) => Piece::Variable(variable, Position::Header),
        });
        Ok(SmsTemplate(pieces.collect()))
    }

    /// Parses a body.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn body(text: &str, form: BodyForm) -> Result<SmsTemplate, String> {
        match form {
            BodyForm::Form => form_body(text),
            BodyForm::Json => json_body(text),
            BodyForm::Xml => xml_body(text),
        }
    }

    /// The text for one message.
    pub fn render(&self, values: &SmsValues<'_>) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(literal) => out.push_str(literal),
                Piece::Variable(variable, _) if values.masked && variable.is_secret() => {
                    out.push_str("***");
                }
                Piece::Variable(variable, position) => {
                    position.encode(&values.value(*variable), &mut out);
                }
            }
        }
        out
    }

    /// Its variables.
    pub fn variables(&self) -> impl Iterator<Item = SmsVariable> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Literal(_) => None,
            Piece::Variable(variable, _) => Some(*variable),
        })
    }
}

/// A part of an encoded byte would take digits of the value that follows.
fn percent_encoded(literal: &str) -> Result<(), String> {
    let mut parts = literal.split('%').skip(1);
    let is_byte = |part: &str| part.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    match parts.all(is_byte) {
        true => Ok(()),
        false => Err("has a % that is not followed by two hexadecimal digits".to_owned()),
    }
}

fn form_body(text: &str) -> Result<SmsTemplate, String> {
    let mut pieces = Vec::new();
    for token in tokens(text)? {
        pieces.push(match token {
            Token::Literal(literal) => {
                percent_encoded(literal)?;
                if !literal.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err("has a space or a character that is not percent-encoded".to_owned());
                }
                Piece::Literal(literal.to_owned())
            }
            Token::Variable(variable) => Piece::Variable(variable, Position::Percent),
        });
    }
    Ok(SmsTemplate(pieces))
}

fn json_body(text: &str) -> Result<SmsTemplate, String> {
    // `escape` is how many characters of an escape sequence are still to come.
    let (mut pieces, mut in_string, mut escape) = (Vec::new(), false, 0);
    for token in tokens(text)? {
        match token {
            Token::Literal(literal) => {
                for c in literal.chars() {
                    match c {
                        'u' if escape == 1 => escape = 4,
                        _ if escape > 0 => escape -= 1,
                        '\\' if in_string => escape = 1,
                        '"' => in_string = !in_string,
                        _ => {}
                    }
                }
                pieces.push(Piece::Literal(literal.to_owned()));
            }
            Token::Variable(variable) if escape > 0 => {
                return Err(misplaced(variable, "in an escape sequence"));
            }
            Token::Variable(variable) if in_string => {
                pieces.push(Piece::Variable(variable, Position::JsonString));
            }
            Token::Variable(variable) if variable.is_number() => {
                pieces.push(Piece::Variable(variable, Position::JsonNumber));
            }
            Token::Variable(variable) => {
                return Err(misplaced(variable, "outside a string; write it in quotes"));
            }
        }
    }
    Ok(SmsTemplate(pieces))
}

/// Where a scan of XML is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum XmlPart {
    Text,
    /// After `&`.
    Entity,
    /// Between `<` and `>`, outside quotes.
    Tag,
    /// In an attribute that this ends.
    Quoted(char),
    /// Between `<?` and `?>`.
    Instruction,
}

fn xml_body(text: &str) -> Result<SmsTemplate, String> {
    let (mut pieces, mut part, mut last) = (Vec::new(), XmlPart::Text, ' ');
    for token in tokens(text)? {
        match token {
            Token::Literal(literal) => {
                for c in literal.chars() {
                    part = match (part, c) {
                        (XmlPart::Tag, '!') if last == '<' => {
                            let why = "has a comment, CDATA or DOCTYPE, which cannot be used here";
                            return Err(why.to_owned());
                        }
                        (XmlPart::Tag, '?') if last == '<' => XmlPart::Instruction,
                        (XmlPart::Instruction, '>') if last == '?' => XmlPart::Text,
                        (XmlPart::Text, '<') => XmlPart::Tag,
                        (XmlPart::Text, '&') => XmlPart::Entity,
                        (XmlPart::Entity, ';') | (XmlPart::Tag, '>') => XmlPart::Text,
                        (XmlPart::Tag, '"' | '\'') => XmlPart::Quoted(c),
                        (XmlPart::Quoted(quote), c) if c == quote => XmlPart::Tag,
                        (part, _) => part,
                    };
                    last = c;
                }
                pieces.push(Piece::Literal(literal.to_owned()));
            }
            Token::Variable(variable) if matches!(part, XmlPart::Text | XmlPart::Quoted(_)) => {
                last = ' ';
                pieces.push(Piece::Variable(variable, Position::Xml));
            }
            Token::Variable(variable) => {
                return Err(misplaced(variable, "in a tag or an entity, outside an attribute"));
            }
        }
    }
    match part {
        XmlPart::Text => Ok(SmsTemplate(pieces)),
        _ => Err("is not complete XML".to_owned()),
    }
}
