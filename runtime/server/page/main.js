/** Joins the page's controls to the conversation. */

import { DeviceError } from "./audio.js";
import { Conversation } from "./conversation.js";
import { Meter } from "./meter.js";
import {
  MICROPHONE_READY,
  NOT_A_PICTURE,
  TOO_SHORT,
  cameraNotice,
  closedNotice,
  microphoneNotice,
  statusNotice,
} from "./notices.js";
import { Camera, downscaled, pictureOf } from "./pictures.js";
import { Transcript } from "./transcript.js";

const KEY_NAME = "antiphon-key"; // in sessionStorage, if the user wishes
const PHASES = {
  idle: "Ready",
  connecting: "Connecting",
  reconnecting: "Connecting again",
  listening: "Listening",
  hearing: "Hearing you",
  thinking: "Thinking",
  speaking: "Speaking",
};
const HELP = {
  "hands-free": "The reply begins when you pause. Speak at any time to break in.",
  hold: "Hold the button or the space bar while you speak, or press Enter on it to begin and to end.",
};

const byId = (id) => document.getElementById(id);
const meter = new Meter(byId("meter"));
const transcript = new Transcript(byId("turns"), byId("scroller"));
let isOpening = false; // the microphone
let isPressed = false; // the button or the space bar
let levelOwner = ""; // whose loudness is shown

const conversation = new Conversation({
  onTurn(turn) {
    if (conversation.turns.includes(turn)) transcript.update(turn);
    byId("welcome").hidden = conversation.turns.length > 0;
  },
  onChange: show,
  onLevel(level, role) {
    if (role === "assistant") levelOwner = level > 0 ? role : "";
    if (role === "assistant" || levelOwner === "") meter.push(level, role);
  },
  onNotice(text, reason) {
    if (reason === "connected" && byId("notice").dataset.reason !== "closed") return;
    notify(text, reason === undefined || reason === "connected" ? "" : "closed");
    if (reason === "key") askForKey(closedNotice("key", ""));
    if (reason === "unreachable") look(); // which may know why
  },
  onAnnouncement(text) {
    byId("announcer").textContent = text;
  },
});

const { session } = conversation;

function notify(text, reason = "") {
  byId("notice").hidden = text === null;
  byId("notice").dataset.reason = reason;
  byId("notice-text").textContent = text ?? "";
}

function show() {
  const { phase, listening } = conversation;
  const { settings, picture } = session;
  transcript.keep(conversation.turns);
  byId("welcome").hidden = conversation.turns.length > 0;
  byId("state").dataset.phase = phase;
  byId("state-text").textContent = isOpening ? "Waiting for the microphone" : PHASES[phase];
  if (document.activeElement === byId("stop") && !conversation.isReplying) byId("talk").focus();
  byId("stop").disabled = !conversation.isReplying;
  byId("talk").dataset.live = String(listening.isHeld || (settings.isHandsFree && listening.isOpen));
  byId("talk-text").textContent = talkText(settings, listening);
  byId("talk-help").textContent = HELP[settings.isHandsFree ? "hands-free" : "hold"];
  byId("shown").hidden = picture === null;
  if (picture !== null && byId("shown-picture").src !== picture.url) byId("shown-picture").src = picture.url;
  byId("send").disabled = byId("question").value.trim() === "";
  if (conversation.speaker.items.length === 0) levelOwner = "";
  if (!listening.isOpen && levelOwner === "") meter.clear();
}

function talkText({ isHandsFree }, { isOpen, isHeld }) {
  if (isHandsFree) return isOpen ? "Mute" : "Start talking";
  return isHeld ? "Release to send" : "Hold to talk";
}

// The server

/** Learn the model's name, and whether the server wants a key. Returns whether it can be talked with. */
async function look() {
  const { place } = session;
  const headers = place.key ? { Authorization: `Bearer ${place.key}` } : {};
  let answer;
  try {
    answer = await fetch("v1/models", { headers });
  } catch {
    notify(closedNotice("unreachable", ""), "closed");
    return false;
  }
  if (answer.status === 401) {
    askForKey(place.key ? closedNotice("key", "") : null);
    return false;
  }
  if (!answer.ok) {
    notify(statusNotice(answer.status), "closed");
    return false;
  }
  place.model = (await answer.json()).data[0].id;
  byId("model").textContent = place.model;
  loadVoices(headers);
  return true;
}

/** The names of the voices; without any, the server chooses. */
async function loadVoices(headers) {
  const answer = await fetch("v1/audio/voices", { headers }).catch(() => null);
  if (!answer?.ok) return;
  const select = byId("voice");
  const chosen = select.value;
  select.length = 1;
  for (const { id, name } of (await answer.json()).data) select.add(new Option(name, id));
  select.value = chosen;
}

async function isReady() {
  return session.place.model !== null || (await look());
}

function askForKey(why) {
  sessionStorage.removeItem(KEY_NAME);
  session.place.model = null;
  if (why !== null) byId("key-why").textContent = why;
  if (!byId("key-dialog").open) byId("key-dialog").showModal();
}

byId("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = byId("key").value.trim();
  session.place.key = key;
  if (byId("key-keep").checked) sessionStorage.setItem(KEY_NAME, key);
  byId("key").value = "";
  byId("key-dialog").close();
  notify(null);
  await look();
});

// Talking

async function openMicrophone() {
  isOpening = true;
  show();
  try {
    await conversation.listen();
    return true;
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    notify(microphoneNotice(error.reason));
    return false;
  } finally {
    isOpening = false;
    show();
  }
}

async function toggleListening() {
  if (conversation.listening.isOpen) conversation.mute();
  else if (!isOpening && (await isReady())) {
    notify(null);
    await openMicrophone();
  }
}

async function press() {
  if (isPressed || isOpening) return;
  isPressed = true;
  notify(null);
  if (conversation.listening.isOpen) {
    conversation.press();
  } else if ((await isReady()) && (await openMicrophone())) {
    if (isPressed) conversation.press();
    else notify(MICROPHONE_READY);
  }
}

async function release() {
  if (!isPressed) return;
  isPressed = false;
  if (conversation.listening.isHeld && !(await conversation.release())) notify(TOO_SHORT);
}

const talk = byId("talk");
const isHold = () => !session.settings.isHandsFree;

talk.addEventListener("pointerdown", (event) => {
  if (!isHold() || event.button !== 0) return;
  talk.setPointerCapture(event.pointerId);
  press();
});
for (const name of ["pointerup", "pointercancel"]) talk.addEventListener(name, () => isHold() && release());
talk.addEventListener("contextmenu", (event) => isHold() && event.preventDefault()); // a long touch
talk.addEventListener("click", (event) => {
  if (!isHold()) toggleListening();
  else if (event.detail === 0) isPressed ? release() : press(); // Enter, or a screen reader
});

/** Whether the space bar is for talking: not where it types or does something else. */
function isTalkKey(event) {
  const isFree = !event.target.closest("button:not(#talk), a, input:not([name=mode]), select, textarea, dialog");
  return event.code === "Space" && isHold() && isFree && !document.querySelector("dialog[open]");
}
addEventListener("keydown", (event) => {
  if (isTalkKey(event)) {
    event.preventDefault();
    if (!event.repeat) press();
  } else if (event.key === "Escape" && conversation.isReplying && !document.querySelector("dialog[open]")) {
    conversation.stop();
  }
});
addEventListener("keyup", (event) => {
  if (!isTalkKey(event)) return;
  event.preventDefault(); // no click of the button
  release();
});
addEventListener("blur", () => isHold() && release());

for (const input of document.querySelectorAll("input[name=mode]")) {
  input.addEventListener("change", () => {
    isPressed = false;
    conversation.configure({ isHandsFree: byId("hands-free").checked });
  });
}

byId("stop").addEventListener("click", () => conversation.stop());
byId("new").addEventListener("click", () => {
  notify(null);
  conversation.renew();
  byId("announcer").textContent = "A new conversation has begun.";
  talk.focus();
});
byId("notice-close").addEventListener("click", () => {
  notify(null);
  talk.focus();
});

// Typing

const question = byId("question");
byId("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (text === "" || !(await isReady())) return;
  question.value = "";
  notify(null);
  await conversation.write(text);
  show();
});
question.addEventListener("input", show);
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("form").requestSubmit();
});

// Pictures

async function showPicture(file) {
  if (!(await isReady())) return;
  let url;
  try {
    url = await downscaled(file);
  } catch {
    notify(NOT_A_PICTURE);
    return;
  }
  conversation.show(url);
  byId("announcer").textContent = "The model sees the picture.";
  talk.focus(); // the space bar talks again
}

byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", ({ target }) => {
  if (target.files.length > 0) showPicture(target.files[0]);
  target.value = ""; // the same file may be chosen again
});
byId("shown-remove").addEventListener("click", () => {
  conversation.hide();
  talk.focus();
});

const camera = new Camera(
  {
    dialog: byId("camera-dialog"),
    video: byId("camera-video"),
    take: byId("camera-take"),
    cancel: byId("camera-cancel"),
  },
  showPicture,
);
byId("camera").addEventListener("click", async () => {
  try {
    await camera.open();
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    notify(cameraNotice(error.reason));
  }
});

addEventListener("paste", (event) => {
  const picture = pictureOf(event.clipboardData);
  if (picture === null) return;
  event.preventDefault();
  showPicture(picture);
});

let numEntered = 0; // elements that a dragged file is over
const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragenter", (event) => {
  if (hasFiles(event)) byId("drop").hidden = ++numEntered === 0;
});
addEventListener("dragleave", (event) => {
  if (hasFiles(event)) byId("drop").hidden = --numEntered <= 0;
});
addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  numEntered = 0;
  byId("drop").hidden = true;
  const picture = pictureOf(event.dataTransfer);
  if (picture === null) notify(NOT_A_PICTURE);
  else showPicture(picture);
});

// Settings

byId("settings-button").addEventListener("click", () => byId("settings").showModal());
byId("settings-form").addEventListener("submit", (event) => {
  event.preventDefault();
  byId("settings").close();
});
byId("settings").addEventListener("close", () => {
  conversation.configure({
    voice: byId("voice").value,
    turnEnd: byId("turn-end").value,
    replies: byId("replies").value,
  });
});

session.place.key = sessionStorage.getItem(KEY_NAME);
byId("hands-free").checked = true; // browsers restore what was chosen before
show();
look();
