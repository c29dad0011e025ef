/**
 * Fields for the values that a JSON Schema describes.
 *
 * @module
 */

import { asText, h } from "./playground-dom.js";

/** @typedef {Record<string, any>} Schema */
/**
 * A field in the page.
 *
 * @typedef {object} Field
 * @property {HTMLElement} element
 * @property {() => unknown} read its value; undefined when it was left empty
 * @property {HTMLElement} control what gets the focus
 */

let fields = 0;

/** A field holds what is no value of its schema. */
export class WrongField extends Error {
  /**
   * @param {Field["control"]} control
   * @param {string} message
   */
  constructor(control, message) {
    super(message);
    this.control = control;
  }
}

/**
 * What `$ref` and a union with null stand for.
 *
 * @param {Schema | undefined} schema
 * @param {Schema} root
 * @param {number} [depth]
 * @returns {Schema}
 */
export function resolved(schema, root, depth = 0) {
  if (schema === null || typeof schema !== "object") return {};
  if (depth > 8) return {};
  const { $ref: reference, anyOf, allOf, oneOf, ...rest } = schema;
  if (typeof reference === "string" && reference.startsWith("#/")) {
    const found = reference
      .slice(2)
      .split("/")
      .reduce((part, name) => part?.[name.replaceAll("~1", "/").replaceAll("~0", "~")], root);
    return { ...resolved(found, root, depth + 1), ...rest };
  }
  const choices = (anyOf ?? oneOf ?? allOf)?.filter(
    (/** @type {Schema} */ choice) => choice?.type !== "null",
  );
  if (choices?.length === 1) return { ...resolved(choices[0], root, depth + 1), ...rest };
  return schema;
}

/**
 * The values that a schema allows; null when there is no short list of them.
 *
 * @param {Schema} schema
 * @returns {unknown[] | null}
 */
export function choicesOf(schema) {
  if (Array.isArray(schema.enum)) return schema.enum;
  if ("const" in schema) return [schema.const];
  const each = schema.anyOf ?? schema.oneOf;
  if (Array.isArray(each) && each.length > 0 && each.every((one) => one && "const" in one)) {
    return each.map((one) => one.const);
  }
  return null;
}

/**
 * The fields of an object, or the one field of any other value.
 *
 * @param {Schema} given
 * @param {string} label of the one field
 * @returns {{element: HTMLElement, read: () => unknown}}
 */
export function formFor(given, label) {
  const schema = resolved(given, given);
  const properties = Object.entries(schema.properties ?? {});
  if (schema.type !== "object" || properties.length === 0) {
    const field = fieldFor(label, schema, given, true);
    return { element: field.element, read: field.read };
  }
  const required = new Set(schema.required ?? []);
  const made = properties.map(([name, property]) => ({
    name,
    ...fieldFor(name, resolved(property, given), given, required.has(name)),
  }));
  const read = () => {
    const values = made.map(({ name, read }) => [name, read()]);
    return Object.fromEntries(values.filter(([, value]) => value !== undefined));
  };
  return { element: h("div", { class: "fields" }, ...made.map(({ element }) => element)), read };
}

/**
 * @param {string} name
 * @param {Schema} schema
 * @param {Schema} root
 * @param {boolean} required
 * @returns {Field}
 */
function fieldFor(name, schema, root, required) {
  const choices = choicesOf(schema);
  if (choices !== null) return choice(name, schema, choices, required);
  if (schema.type === "boolean") return checkbox(name, schema);
  if (schema.type === "number" || schema.type === "integer") return number(name, schema, required);
  if (schema.type === "string") return text(name, schema, required);
  return json(name, schema, required);
}

/**
 * A labelled control.
 *
 * @param {string} name
 * @param {Schema} schema
 * @param {HTMLElement} control
 * @param {boolean} required
 * @param {string} [hint]
 */
function labelled(name, schema, control, required, hint = "") {
  const id = `field-${++fields}`;
  control.id = id;
  const words = [typeof schema.description === "string" ? schema.description : "", hint];
  const said = words.filter(Boolean).join(" ");
  if (said) control.setAttribute("aria-describedby", `${id}-hint`);
  if (required) control.setAttribute("aria-required", "true");
  return h(
    "div",
    { class: "field" },
    h("label", { for: id }, name, !required && h("span", { class: "optional" }, " optional")),
    control,
    said && h("p", { class: "hint", id: `${id}-hint` }, said),
  );
}

/**
 * @param {string} name
 * @param {Schema} schema
 * @param {unknown[]} choices
 * @param {boolean} required
 * @returns {Field}
 */
function choice(name, schema, choices, required) {
  const control = h("select");
  if (!required) control.append(h("option", { value: "" }, "—"));
  choices.forEach((value, index) => {
    const selected = schema.default !== undefined && value === schema.default;
    control.append(h("option", { value: index, selected }, asText(value)));
  });
  const read = () => (control.value === "" ? undefined : choices[Number(control.value)]);
  return { element: labelled(name, schema, control, required), read, control };
}

/**
 * @param {string} name
 * @param {Schema} schema
 * @returns {Field}
 */
function checkbox(name, schema) {
  const control = h("input", { type: "checkbox", checked: schema.default === true });
  const element = labelled(name, schema, control, true);
  element.classList.add("check");
  return { element, read: () => control.checked, control };
}

/**
 * @param {string} name
 * @param {Schema} schema
 * @param {boolean} required
 * @returns {Field}
 */
function number(name, schema, required) {
  const whole = schema.type === "integer";
  const control = h("input", {
    type: "text",
    inputmode: whole ? "numeric" : "decimal",
    value: schema.default ?? "",
    autocomplete: "off",
  });
  const read = () => {
    const said = control.value.trim();
    if (said === "" && !required) return undefined;
    const value = said === "" ? Number.NaN : Number(said);
    if (whole ? !Number.isSafeInteger(value) : !Number.isFinite(value)) {
      throw new WrongField(control, `${name}: expected a ${whole ? "whole " : ""}number`);
    }
    return value;
  };
  return { element: labelled(name, schema, control, required), read, control };
}

/**
 * @param {string} name
 * @param {Schema} schema
 * @param {boolean} required
 * @returns {Field}
 */
function text(name, schema, required) {
  const value = typeof schema.default === "string" ? schema.default : "";
  const control = h("textarea", { rows: "1", autocomplete: "off" });
  control.value = value;
  const read = () => (control.value === "" && !required ? undefined : control.value);
  return { element: labelled(name, schema, control, required), read, control };
}

/**
 * A value of any other kind is written as JSON.
 *
 * @param {string} name
 * @param {Schema} schema
 * @param {boolean} required
 * @returns {Field}
 */
function json(name, schema, required) {
  const control = h("textarea", { rows: "3", class: "mono", spellcheck: "false" });
  control.value = schema.default === undefined ? "" : (JSON.stringify(schema.default) ?? "");
  const read = () => {
    if (control.value.trim() === "" && !required) return undefined;
    return parsed(control, name);
  };
  const kind = typeof schema.type === "string" ? `JSON (${schema.type})` : "JSON";
  return { element: labelled(name, schema, control, required, `${kind}.`), read, control };
}

/**
 * What is written in a control as JSON.
 *
 * @param {HTMLTextAreaElement} control
 * @param {string} name
 */
export function parsed(control, name) {
  try {
    return JSON.parse(control.value);
  } catch (error) {
    const why = control.value.trim() === "" ? "" : `: ${/** @type {Error} */ (error).message}`;
    throw new WrongField(control, `${name}: expected JSON${why}`);
  }
}

/**
 * Read a form; what is wrong in it is marked and said.
 *
 * @template Value
 * @param {HTMLElement} form
 * @param {() => Value} read
 * @param {(message: string) => void} tell
 * @returns {{value: Value} | null} null when something is wrong
 */
export function readForm(form, read, tell) {
  for (const wrong of form.querySelectorAll("[aria-invalid]"))
    wrong.removeAttribute("aria-invalid");
  try {
    return { value: read() };
  } catch (error) {
    if (!(error instanceof WrongField)) throw error;
    error.control.setAttribute("aria-invalid", "true");
    error.control.focus();
    tell(error.message);
    return null;
  }
}
