"use strict"; // link
