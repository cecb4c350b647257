"use strict";
// Maps to turn: in each pixel a ray looks for the density's surface.
for (const turned of document.querySelectorAll(".turned")) {
  const canvas = turned.querySelector("canvas");
  const slider = turned.querySelector("input");
  const gl = canvas.getContext("webgl2", { alpha: true, antialias: false, preserveDrawingBuffer: true });
  if (gl === null) continue;
  const side = Number(canvas.dataset.side);
  const voxels = Uint8Array.from(atob(canvas.dataset.voxels), (letter) => letter.charCodeAt(0));

  const vertex = `#version 300 es
    in vec2 corner; out vec2 place;
    void main() { place = corner; gl_Position = vec4(corner, 0.0, 1.0); }`;
  const fragment = `#version 300 es
    precision highp float; precision highp sampler3D;
    uniform sampler3D map; uniform mat3 turn; uniform float level, width, voxel;
    in vec2 place; out vec4 colour;
    float at(vec3 p) {
      vec3 q = turn * p;
      if (any(greaterThan(abs(q), vec3(1.0)))) return 0.0;
      return texture(map, 0.5 * q + 0.5).r;
    }
    void main() {
      vec3 p = vec3(width * place.x, -width * place.y, -1.75);
      float stride = 0.5 * voxel;
      for (; p.z < 1.75; p.z += stride) if (at(p) > level) break;
      if (p.z >= 1.75) { colour = vec4(0.0); return; }
      float outside = p.z - stride;
      for (int i = 0; i < 6; i++) {
        float middle = 0.5 * (outside + p.z);
        if (at(vec3(p.xy, middle)) > level) p.z = middle; else outside = middle;
      }
      vec2 e = vec2(voxel, 0.0);
      vec3 slope = vec3(at(p + e.xyy) - at(p - e.xyy), at(p + e.yxy) - at(p - e.yxy), at(p + e.yyx) - at(p - e.yyx));
      float shade = max(dot(-slope / max(length(slope), 1e-6), normalize(vec3(-0.45, -0.55, -0.7))), 0.0);
      float bright = (0.25 + 0.75 * shade) * (1.0 - 0.125 * (p.z + 1.0));
      colour = vec4(min(1.25 * bright * vec3(0.56, 0.72, 0.84), 1.0), 1.0);
    }`;
  const program = gl.createProgram();
  for (const [kind, words] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, words);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) continue;
  gl.useProgram(program);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 3, -1, -1, 3]), gl.STATIC_DRAW);
  gl.enableVertexAttribArray(0);
  gl.bindAttribLocation(program, 0, "corner");
  gl.vertexAttribPointer(gl.getAttribLocation(program, "corner"), 2, gl.FLOAT, false, 0, 0);
  gl.bindTexture(gl.TEXTURE_3D, gl.createTexture());
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  gl.texImage3D(gl.TEXTURE_3D, 0, gl.R8, side, side, side, 0, gl.RED, gl.UNSIGNED_BYTE, voxels);
  for (const wrap of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T, gl.TEXTURE_WRAP_R])
    gl.texParameteri(gl.TEXTURE_3D, wrap, gl.CLAMP_TO_EDGE);
  for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER])
    gl.texParameteri(gl.TEXTURE_3D, filter, gl.LINEAR);
  const uniform = (name) => gl.getUniformLocation(program, name);
  gl.uniform1f(uniform("width"), Number(canvas.dataset.width));
  gl.uniform1f(uniform("voxel"), 2 / side);

  // From the picture's coordinates to the map's, columns first.
  let turn = [1, 0, 0, 0, 1, 0, 0, 0, 1];
  let waiting = false;
  const times = (a, b) =>
    a.map((_, i) => [0, 1, 2].reduce((sum, k) => sum + a[3 * k + (i % 3)] * b[3 * Math.floor(i / 3) + k], 0));
  function draw() {
    waiting = false;
    gl.uniformMatrix3fv(uniform("turn"), false, turn);
    gl.uniform1f(uniform("level"), slider.value / 255);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
  function later() {
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  }
  // Angles in degrees.
  function drag(right, down) {
    const [a, b] = [(-right * Math.PI) / 180, (down * Math.PI) / 180];
    const upright = [Math.cos(a), 0, -Math.sin(a), 0, 1, 0, Math.sin(a), 0, Math.cos(a)];
    const across = [1, 0, 0, 0, Math.cos(b), Math.sin(b), 0, -Math.sin(b), Math.cos(b)];
    turn = times(times(turn, upright), across);
    later();
  }
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons !== 0) drag(event.movementX / 2, event.movementY / 2);
  });
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-15, 0], ArrowRight: [15, 0], ArrowUp: [0, -15], ArrowDown: [0, 15] }[event.key];
    if (way === undefined) return;
    event.preventDefault();
    drag(...way);
  });
  slider.addEventListener("input", later);
  turned.hidden = false;
  draw();
}
