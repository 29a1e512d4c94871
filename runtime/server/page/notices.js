/** What may go wrong, in plain words. */

const MICROPHONE = {
  insecure:
    "Browsers give the microphone only to pages of this computer or over https. Open this page that way, or type.",
  denied:
    "This page may not use the microphone. Allow it in the browser's address bar, then try again. You can type meanwhile.",
  missing: "No microphone was found. Plug one in and try again. You can type meanwhile.",
  busy: "The microphone is in use by another program. Close it there and try again. You can type meanwhile.",
  other: "The microphone could not be started. Try again, or type.",
};
export const MICROPHONE_LOST = "The microphone is gone. Plug it in and start talking again.";

const CAMERA = {
  insecure: "Browsers give the camera only to pages of this computer or over https. Choose a file instead.",
  denied: "This page may not use the camera. Allow it in the browser's address bar, or choose a file.",
  missing: "No camera was found. Choose a file instead.",
  busy: "The camera is in use by another program. Close it there, or choose a file.",
};

const CLOSED = {
  ended: "The server has ended this conversation. Start talking or type to begin a new one.",
  full: "The server is full: all its places are taken. Try again in a moment.",
  key: "The server did not take the key.",
  large: "That was too much for the server at once. Try a smaller picture.",
  lost: "The connection was lost and did not come back. Start talking or type to begin a new conversation.",
  unreachable: "The server cannot be reached. Is it running, and is this computer online?",
};

const STATUSES = {
  429: CLOSED.full,
  503: "The model is not there now: it is being loaded, or it has failed. Try again in a moment.",
};

export const RESUMED = "Connected again.";
export const RESTARTED =
  "The connection was away for too long, so the model has forgotten what was said. This is a new conversation.";
export const TOO_SHORT = "Hold the button, or the space bar, for as long as you speak.";
export const MICROPHONE_READY = "The microphone is ready. Hold the button, or the space bar, while you speak.";
export const NOT_A_PICTURE = "The browser cannot read this file as a picture.";

export const microphoneNotice = (reason) => MICROPHONE[reason] ?? MICROPHONE.other;
export const cameraNotice = (reason) => CAMERA[reason] ?? "The camera could not be started. Choose a file instead.";

/** Why a connection has ended; the server's own words, if there are any, come last. */
export function closedNotice(reason, detail) {
  return detail && reason !== "full" ? `${CLOSED[reason]} (${detail})` : CLOSED[reason];
}

export function statusNotice(status) {
  return STATUSES[status] ?? `The server answered with an error (status ${status}).`;
}

/** An error event, or the error of a response. */
export function errorNotice(error) {
  const said = error?.message ?? error?.code ?? "it does not say why";
  if (error?.code === "overloaded" || error?.type === "rate_limit_error") return CLOSED.full;
  if (error?.code === "engine_dead") return STATUSES[503];
  return error?.type === "invalid_request_error"
    ? `The server could not do that: ${said}.`.replace("..", ".")
    : `The model could not answer: ${said}.`.replace("..", ".");
}
