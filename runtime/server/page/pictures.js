/** Pictures from files, the camera, a drop or a paste, made small enough to send. */

import { DeviceError } from "./audio.js";

const MAX_SIDE_PIXELS = 1344;
const MAX_PNG_CHARS = 2_000_000; // a photo in PNG is larger; JPEG serves it better
const QUALITY = 0.9;

/** A picture as a data URL, upright, at most 1344 pixels wide and high. Raises if it is not a picture. */
export async function downscaled(file) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  const scale = Math.min(1, MAX_SIDE_PIXELS / Math.max(bitmap.width, bitmap.height));
  const canvas = drawn(bitmap, Math.max(1, Math.round(bitmap.width * scale)), Math.max(1, Math.round(bitmap.height * scale)));
  bitmap.close();
  const png = file.type === "image/png" ? canvas.toDataURL("image/png") : null;
  return png !== null && png.length < MAX_PNG_CHARS ? png : canvas.toDataURL("image/jpeg", QUALITY);
}

function drawn(source, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.fillStyle = "white"; // behind what is transparent
  pen.fillRect(0, 0, width, height);
  pen.drawImage(source, 0, 0, width, height);
  return canvas;
}

/** The first picture among what was dropped or pasted, or null. */
export function pictureOf(transfer) {
  return [...(transfer?.files ?? [])].find(({ type }) => type.startsWith("image/")) ?? null;
}

const CAMERA_REASONS = { NotAllowedError: "denied", SecurityError: "denied", NotFoundError: "missing", NotReadableError: "busy" };

/** Shows the camera in a dialog until a picture is taken. */
export class Camera {
  #stream = null;

  /** @param {(picture: Blob) => void} onTaken */
  constructor({ dialog, video, take, cancel }, onTaken) {
    this.dialog = dialog;
    this.video = video;
    take.addEventListener("click", () => this.#take(onTaken));
    cancel.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => this.#stop());
  }

  /** Raises DeviceError. */
  async open() {
    if (!navigator.mediaDevices?.getUserMedia) throw new DeviceError("insecure");
    try {
      const video = { facingMode: "environment", width: { ideal: MAX_SIDE_PIXELS } };
      this.#stream = await navigator.mediaDevices.getUserMedia({ video });
    } catch (error) {
      throw new DeviceError(CAMERA_REASONS[error.name] ?? "other", error);
    }
    this.video.srcObject = this.#stream;
    this.dialog.showModal();
    await this.video.play();
  }

  #take(onTaken) {
    const { videoWidth, videoHeight } = this.video;
    if (videoWidth === 0) return; // it shows nothing yet
    drawn(this.video, videoWidth, videoHeight).toBlob((picture) => {
      this.dialog.close();
      onTaken(picture);
    }, "image/jpeg");
  }

  #stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.video.srcObject = null;
  }
}
