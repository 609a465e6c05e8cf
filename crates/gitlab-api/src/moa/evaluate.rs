//! From expressions to values.

use super::parse::{Expression, Part};
use super::value::Value;
use super::{Input, Inputs, MOST, MoaError};

/// A value, or what leads to the inputs: they are looked at one by one.
enum Found {
    Job,
    Inputs,
    Value(Value),
}

fn meaning(text: String) -> MoaError {
    MoaError::Meaning(text)
}

impl Inputs {
    /// A text of its parts.
    pub(super) fn text(&self, parts: &[Part]) -> Result<String, MoaError> {
        let mut out = String::new();
        for part in parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Expression(expression) => out.push_str(&self.of(expression)?.text()),
            }
        }
        Ok(out)
    }

    /// Every copy of what a job brings counts.
    fn spend(&self, value: Value) -> Result<Value, MoaError> {
        let left = self.left.get().checked_sub(value.size());
        self.left.set(left.unwrap_or(0));
        left.map(|_| value).ok_or_else(|| meaning(format!("the values in all texts of the job have more than {MOST} bytes")))
    }

    /// All of the inputs where somebody wants to see them as one value.
    fn all(&self) -> Result<Value, MoaError> {
        let one = |input: &Input| match input.sensitive {
            true => Err(MoaError::Sensitive),
            false => Ok((input.name.clone(), self.spend(input.value.clone())?)),
        };
        self.list.iter().map(one).collect::<Result<_, _>>().map(Value::Object)
    }

    fn of(&self, expression: &Expression) -> Result<Value, MoaError> {
        match self.find(expression)? {
            Found::Value(value) => Ok(value),
            Found::Inputs => self.all(),
            Found::Job => Ok(Value::Object(vec![("inputs".to_owned(), self.all()?)])),
        }
    }

    fn find(&self, expression: &Expression) -> Result<Found, MoaError> {
        Ok(Found::Value(match expression {
            Expression::Literal(value) => value.clone(),
            Expression::Template(parts) => self.spend(Value::String(self.text(parts)?))?,
            Expression::Name(name) if name == "job" => return Ok(Found::Job),
            Expression::Name(name) => return Err(meaning(format!("there is no \"{name}\""))),
            Expression::Array(list) => Value::Array(list.iter().map(|one| self.of(one)).collect::<Result<_, _>>()?),
            Expression::Object(pairs) => Value::Object(self.object(pairs)?),
            Expression::Property(from, key) => return self.property(self.find(from)?, &self.of(key)?),
            Expression::Call(name, arguments) => self.call(name, arguments)?,
            Expression::Unary(operator, operand) => unary(*operator, self.of(operand)?)?,
            Expression::Binary(operator, left, right) => {
                let left = self.of(left)?;
                match *operator {
                    "||" if left.is_truthy() => left,
                    "&&" if !left.is_truthy() => left,
                    "||" | "&&" => self.of(right)?,
                    _ => self.spend(binary(operator, left, self.of(right)?)?)?,
                }
            }
        }))
    }

    fn object(&self, pairs: &[(Expression, Expression)]) -> Result<Vec<(String, Value)>, MoaError> {
        let mut object: Vec<(String, Value)> = Vec::new();
        for (key, one) in pairs {
            let key = match self.of(key)? {
                Value::String(key) => key,
                other => return Err(meaning(format!("a key of an object is a {}, not a string", other.kind()))),
            };
            let one = self.of(one)?;
            match object.iter_mut().find(|(name, _)| *name == key) {
                Some((_, there)) => *there = one,
                None => object.push((key, one)),
            }
        }
        Ok(object)
    }

    fn property(&self, from: Found, key: &Value) -> Result<Found, MoaError> {
        let missing = || match key {
            Value::String(name) => meaning(format!("there is no \"{name}\"")),
            other => meaning(format!("there is no element {}", other.text())),
        };
        match (from, key) {
            (Found::Job, Value::String(name)) if name == "inputs" => Ok(Found::Inputs),
            (Found::Inputs, Value::String(name)) => {
                let input = self.list.iter().find(|input| input.name == *name).ok_or_else(missing)?;
                if input.sensitive { Err(MoaError::Sensitive) } else { self.spend(input.value.clone()).map(Found::Value) }
            }
            (Found::Value(Value::Object(map)), Value::String(name)) => {
                let found = map.into_iter().find(|(there, _)| there == name);
                found.map(|(_, value)| Found::Value(value)).ok_or_else(missing)
            }
            (Found::Value(Value::Array(list)), Value::Number(at)) => {
                let whole = *at >= 0.0 && at.fract() == 0.0 && *at < list.len() as f64;
                let found = if whole { list.into_iter().nth(*at as usize) } else { None };
                found.map(Found::Value).ok_or_else(missing)
            }
            (Found::Value(other), key) => {
                Err(meaning(format!("a {} has no parts that a {} could name", other.kind(), key.kind())))
            }
            _ => Err(missing()),
        }
    }

    fn call(&self, name: &str, arguments: &[Expression]) -> Result<Value, MoaError> {
        if !["str", "num", "bool"].contains(&name) {
            return Err(meaning(format!("there is no function \"{name}\"")));
        }
        let [argument] = arguments else {
            return Err(meaning(format!("{name} takes one value, not {}", arguments.len())));
        };
        let argument = self.of(argument)?;
        match (name, argument) {
            ("str", value) => self.spend(Value::String(value.text())),
            ("bool", value) => Ok(Value::Bool(value.is_truthy())),
            (_, Value::Number(number)) => Ok(Value::Number(number)),
            (_, Value::String(text)) => {
                let number = text.parse().ok().filter(|number: &f64| number.is_finite());
                number.map(Value::Number).ok_or_else(|| meaning(format!("{text:?} is no number")))
            }
            (_, other) => Err(meaning(format!("num of a {}", other.kind()))),
        }
    }
}

fn unary(operator: char, operand: Value) -> Result<Value, MoaError> {
    match (operator, operand) {
        ('!', operand) => Ok(Value::Bool(!operand.is_truthy())),
        ('-', Value::Number(number)) => Ok(Value::Number(-number)),
        (_, Value::Number(number)) => Ok(Value::Number(number)),
        (_, other) => Err(meaning(format!("{operator} of a {}", other.kind()))),
    }
}

fn binary(operator: &str, left: Value, right: Value) -> Result<Value, MoaError> {
    let order = || left.compare(&right);
    let compared = match operator {
        "==" => Some(order().is_eq()),
        "!=" => Some(order().is_ne()),
        "<" => Some(order().is_lt()),
        "<=" => Some(order().is_le()),
        ">" => Some(order().is_gt()),
        ">=" => Some(order().is_ge()),
        _ => None,
    };
    if let Some(compared) = compared {
        return Ok(Value::Bool(compared));
    }
    match (left, right) {
        (Value::String(left), Value::String(right)) if operator == "+" => Ok(Value::String(left + &right)),
        (Value::Number(_), Value::Number(0.0)) if matches!(operator, "/" | "%") => Err(meaning("division by zero".to_owned())),
        (Value::Number(left), Value::Number(right)) => Ok(Value::Number(match operator {
            "+" => left + right,
            "-" => left - right,
            "*" => left * right,
            "/" => left / right,
            _ => left % right,
        })),
        (left, right) => Err(meaning(format!("{operator} of a {} and a {}", left.kind(), right.kind()))),
    }
}
