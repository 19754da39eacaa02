// Numbers as people read them: a few significant digits and a unit, always the same unit for the same thing.

const BINARY = ['KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
export const DASH = '–';

/** A value and its unit apart, so that columns can be aligned. */
export function bytesOf(value) {
  if (!Number.isFinite(value)) return [DASH, ''];
  if (value < 1000) return [String(Math.round(value)), 'B'];
  let unit = 0;
  value /= 1024;
  while (value >= 999.5 && unit + 1 < BINARY.length) {
    value /= 1024;
    unit += 1;
  }
  return [value < 9.95 ? value.toFixed(1) : value.toFixed(0), BINARY[unit]];
}

export const bytes = (value) => bytesOf(value).join(' ').trim();
export const perSecond = (value) => (Number.isFinite(value) ? `${bytes(value)}/s` : DASH);

export function count(value) {
  if (!Number.isFinite(value)) return DASH;
  if (value < 10_000) return Number.isInteger(value) ? String(value) : value.toFixed(value < 10 ? 1 : 0);
  const units = ['k', 'M', 'G', 'T'];
  let unit = 0;
  value /= 1000;
  while (value >= 999.5 && unit + 1 < units.length) {
    value /= 1000;
    unit += 1;
  }
  return `${value < 99.5 ? value.toFixed(1) : value.toFixed(0)}${units[unit]}`;
}

export const exact = (value) => (Number.isFinite(value) ? value.toLocaleString('en-US') : DASH);
/** With the number of a noun. */
export const many = (value, noun) => `${count(value)} ${noun}${value === 1 ? '' : 's'}`;
export const rate = (value) => (Number.isFinite(value) ? `${count(value)}/s` : DASH);

export function ms(value) {
  if (!Number.isFinite(value)) return DASH;
  if (value < 1) return `${Math.round(value * 1000)} µs`;
  if (value < 9.95) return `${value.toFixed(1)} ms`;
  if (value < 999.5) return `${value.toFixed(0)} ms`;
  if (value < 99_500) return `${(value / 1000).toFixed(value < 9_950 ? 1 : 0)} s`;
  return span(value / 1000);
}

export const ns = (value) => {
  if (!Number.isFinite(value)) return DASH;
  return value < 1000 ? `${value} ns` : ms(value / 1e6);
};

/** The two largest units of a length of time. */
export function span(seconds) {
  if (!Number.isFinite(seconds)) return DASH;
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** As `span`, but only the largest unit. */
export function roughly(seconds) {
  if (!Number.isFinite(seconds)) return DASH;
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.round(s / 60)} min`;
  if (s < 86_400) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86_400)} d`;
}

export const percent = (share) => (Number.isFinite(share) ? `${Math.round(share * 100)} %` : DASH);

const two = (value) => String(value).padStart(2, '0');

/** Local time; with the date where it is not today's. */
export function clock(date, withSeconds = true) {
  const time = new Date(date);
  if (Number.isNaN(time.getTime())) return DASH;
  const text = `${two(time.getHours())}:${two(time.getMinutes())}${withSeconds ? `:${two(time.getSeconds())}` : ''}`;
  if (time.toDateString() === new Date().toDateString()) return text;
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ${text}`;
}

export const ago = (date) => `${roughly((Date.now() - new Date(date).getTime()) / 1000)} ago`;
export const words = (name) => String(name ?? '').replaceAll('_', ' ');
